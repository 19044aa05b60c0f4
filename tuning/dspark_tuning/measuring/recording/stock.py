"""Steps of a stock SGLang with DSPARK: its ``dspark_info_record`` (``DsparkInfoDumper``), polled and cleared.

What the server does between the answer to a poll and the clearing is lost. Its forward counter says how many batches
that were, prefills among them, which it does not record: so what is lost is known as a bound.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dspark_tuning.measuring.recording.schema import About
from dspark_tuning.measuring.recording.source import Taken, described, none
from sglang_dspark.errors import InputError
from sglang_dspark.serving.step_schema import RECORDING
from sglang_dspark.sglang_client import Client, UnansweredError

LONGEST_S: Final = 10.0
SHORTEST_S: Final = 1.0

PAYLOAD: Final = 4_000_000
"""Bytes of an answer that hold up the server's own work little: it makes them between two steps."""

RECORD: Final = "SGLANG_DSPARK_ENABLE_SPS_RECORD=1"
DUMP: Final = "SGLANG_DSPARK_DEBUG_DUMP=all"

# Upstream rounds confidences to four digits, so the last of them is all that is known of 0 and 1.
HALF_A_DIGIT: Final = 5e-5


class Stock:
    """A stock server, which records its own steps."""

    name = "SGLang's own record"

    def __init__(self, client: Client, info: dict[str, Any]) -> None:
        """
        Args:
            info: The server's info after its records were cleared.

        Raises:
            InputError: It records nothing, or nothing that distinguishes steps.
        """
        self._client, self._info = client, info
        self.wait_s = LONGEST_S / 4
        self.restarts = 0
        self._ranks: dict[str, _Rank] = {}
        self._segments = 0
        records = info["internal_states"][0].get("dspark_info_record")
        if records is None:
            raise InputError(
                f"{client.url}: records no steps: dspark_info_record is missing from its state; start it with "
                f"{RECORD}, or on a GPU with {DUMP} for lengths and confidences too"
            )
        self._gamma, self._mode = int(records["gamma"]), str(records["mode"])
        self._components = set(records["components"])
        if "core" not in self._components:
            raise InputError(
                f"{client.url}: SGLANG_DSPARK_DEBUG_DUMP: {','.join(sorted(self._components))} leaves out core, by "
                f"which steps are distinguished; start the server with {RECORD} or {DUMP}"
            )
        self._temperatures, unread = _temperatures(info.get("speculative_dspark_confidence_sts_path"), self._gamma)
        self._partial = _missing(self._components, self._mode, info, unread)

    def poll(self) -> Taken:
        info = self._client.info()
        size = self._client.received
        # At once: what runs between is lost.
        with contextlib.suppress(UnansweredError):  # Then they are there again, and are not taken twice.
            self._client.set_state(dspark_clear_info_records=1)
        # An answer grows with the wait, and shall not grow beyond what holds nobody up.
        self.wait_s = min(max(self.wait_s * PAYLOAD / max(size, 1), SHORTEST_S), LONGEST_S)
        states = info["internal_states"]
        if not all("dspark_info_record" in state for state in states):
            raise UnansweredError("dspark_info_record is gone: the server was started again without it")
        names = [_process(state) for state in states]
        if len(set(names)) < len(names):
            raise InputError(
                f"{self._client.url}: its {len(names)} data-parallel ranks cannot be distinguished; record one"
            )
        rows: list[dict[str, Any]] = []
        lost = 0
        for name, state in zip(names, states, strict=True):
            if name not in self._ranks:
                self.restarts += len(self._ranks) >= len(names)
                self._ranks[name] = _Rank()
            taken, missed, restarted = self._ranks[name].fresh(state["dspark_info_record"]["records"])
            self.restarts += restarted
            lost += missed
            for record, starts in taken:
                if starts:
                    self._ranks[name].segment = self._segments
                    self._segments += 1
                rows.append(self._row(record, self._ranks[name].segment))
        return Taken(pa.Table.from_pylist(rows, RECORDING) if rows else none(), lost)

    def end(self) -> None:
        """Nothing: the server records as before."""

    def about(self, lost: int) -> About:
        return About(
            source="sglang",
            gamma=self._gamma,
            verify_mode=self._mode,
            sts_temperatures=tuple(self._temperatures.tolist()),
            lost=lost,
            partial=tuple(self._partial),
            **described(self._info),
        )

    def _row(self, record: dict[str, Any], segment: int) -> dict[str, Any]:
        requests = record["num_running_reqs"]
        rows = record.get("reqs")
        padded = record.get("num_verify_tokens")
        whole = requests * (self._gamma + 1)
        captured = self._mode == "compact" and _captures(self._info)
        row = {
            "segment": segment,
            "step": record["forward_ct"],
            "kind": "decode",
            "mode": "upstream",
            "step_s": _seconds(record.get("step_cpu_ms")),
            "draft_s": _seconds(record.get("draft_gpu_ms")),
            "verify_s": _seconds(record.get("target_verify_gpu_ms")),
            "requests": requests,
            "drafted_tokens": requests * self._gamma,
            # Without graphs no token is there for padding.
            "verify_tokens": whole if self._mode == "static" else None if captured else padded,
            "budget": record.get("budget"),
            "tier": record.get("verify_tokens_graph_key") if captured else None,
        }
        if rows is not None:
            lengths = [request["verify_len"] - 1 for request in rows]
            row |= {
                "verify_tokens": sum(lengths) + requests,
                "context_tokens": sum(request["prefix_len"] for request in rows),
                "rid": [request.get("rid", "") for request in rows],
                "context": [request["prefix_len"] for request in rows],
                "verify_length": lengths,
                "accepted_length": [request["acc_len"] for request in rows],
                "confidence": self._raw([request.get("confidence") for request in rows]),
            }
        return row

    def _raw(self, confidence: list[list[float] | None]) -> NDArray[np.float32] | None:
        """float32 [R * gamma], without temperature scaling; None where that cannot be had."""
        if any(row is None for row in confidence) or not len(self._temperatures):
            return None
        inside = np.clip(np.array(confidence), HALF_A_DIGIT, 1 - HALF_A_DIGIT)
        logit = np.log(inside / (1 - inside)) * self._temperatures
        unscaled: NDArray[np.float32] = (1 / (1 + np.exp(-logit))).astype(np.float32).reshape(-1)
        return unscaled


class _Rank:
    """The state of one scheduler process's recording."""

    def __init__(self) -> None:
        self._last: int | None = None
        self.segment = 0

    def fresh(self, records: list[dict[str, Any]]) -> tuple[list[tuple[dict[str, Any], bool]], int, bool]:
        """Of an answer's records, those that no answer before had.

        Returns:
            The records, each with whether a segment starts at it; how many steps can have been lost; and whether the
            server was started again.
        """
        last = self._last
        # Records that were not cleared are there again, down to the last of them; others are another process's.
        restarted = last is not None and bool(records) and records[-1]["forward_ct"] < last
        if restarted:
            last = None
        new = [record for record in records if last is None or record["forward_ct"] > last]
        if not new:
            return [], 0, restarted
        # Where the last one is there again nothing was cleared after it, and gaps are prefills.
        kept = last is not None and any(record["forward_ct"] == last for record in records)
        lost = 0 if last is None or kept else new[0]["forward_ct"] - last - 1
        self._last = new[-1]["forward_ct"]
        return [(record, i == 0 and (last is None or lost > 0)) for i, record in enumerate(new)], lost, restarted


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _process(state: dict[str, Any]) -> str:
    """Identify a scheduler process by the duration of its start."""
    return json.dumps(state.get("startup_time"), sort_keys=True)


def _captures(info: dict[str, Any]) -> bool:
    """Whether steps run in CUDA graphs, as far as they fit."""
    config = info.get("cuda_graph_config") or {}
    return info.get("device") != "cpu" and config.get("decode", {}).get("backend") != "disabled"


def _temperatures(path: str | None, gamma: int) -> tuple[NDArray[np.float64], str]:
    """The server's STS temperatures, and why they are not known: float64 [gamma], empty then."""
    if not path:
        return np.ones(gamma), ""
    try:
        temperatures = np.array(json.loads(Path(path).read_text())["temperatures"], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return np.zeros(0), f"{path} of the server cannot be read here ({type(error).__name__})"
    if temperatures.shape != (gamma,):
        return np.zeros(0), f"{path} has {temperatures.size} temperatures for a block of {gamma}"
    return temperatures, ""


def _missing(components: set[str], mode: str, info: dict[str, Any], unread: str) -> list[str]:
    """The data that the server does not record and why, a sentence each."""
    missing = ["Prefills: SGLang records decode steps only; a step after a prefill has no time."]
    if "step_cpu_time" not in components:
        missing.append(f"Step times: the server was started without step_cpu_time; {RECORD} has it.")
    else:
        missing.append("Steps of more than a second: SGLang leaves out their time.")
    if not components >= {"draft_gpu_time", "target_verify_gpu_time"}:
        missing.append(f"Draft and verify times: they need {DUMP}, and a GPU.")
    if "reqs" not in components:
        missing.append(
            f"Requests, contexts, verify and accepted lengths and confidences: they need {DUMP}, and a GPU; "
            "without them cost can be calibrated, acceptance cannot."
        )
    elif unread:
        missing.append(f"Confidences: {unread}, and they cannot be computed without its temperatures.")
    if mode == "static":
        missing.append("Confidences and budgets: verify mode static has none; compact and cap-accept do.")
    if info.get("enable_dp_attention"):
        missing.append("The other ranks' tokens: with data-parallel attention a step waits for all ranks.")
    return missing
