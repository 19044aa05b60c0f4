"""The flags and variables that start a simulated server with SGLang, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspark_simulator.server import Server

# By field of the simulated server.
FLAGS = {
    "max_running_requests": "--max-running-requests",
    "capture_requests": "--cuda-graph-max-bs-decode",
    "cuda_graph_bs_decode": "--cuda-graph-bs-decode",
    "chunked_prefill_size": "--chunked-prefill-size",
    "max_prefill_tokens": "--max-prefill-tokens",
    "min_free_slots_delay": "--min-free-slots-delay",
    "prefill_decode_interval": "--prefill-decode-interval",
    "prefill_decode_interval_min_bs": "--prefill-decode-interval-min-bs",
    "prefill_max_requests": "--prefill-max-requests",
    "max_queued_requests": "--max-queued-requests",
    "verify_mode": "SGLANG_RAGGED_VERIFY_MODE",
    "confidence_lag_steps": "SGLANG_DSPARK_CONFIDENCE_RELAY_LAG_STEPS",
}

# Flags that are given only where they differ from SGLang's defaults.
OPTIONAL = (
    "min_free_slots_delay",
    "prefill_decode_interval",
    "prefill_decode_interval_min_bs",
    "prefill_max_requests",
    "max_queued_requests",
)


def flags(server: Server) -> dict[str, str]:
    """The flags of a server, as SGLang spells them; blanks separate the values of a list."""
    given: dict[str, Any] = {
        "max_running_requests": server.max_running_requests,
        **_captured(server),
        "chunked_prefill_size": server.chunked_prefill_size,
        "max_prefill_tokens": server.max_prefill_tokens,
        **{name: getattr(server, name) for name in OPTIONAL if getattr(server, name) != _default(name)},
    }
    dspark = {"--speculative-algorithm": "DSPARK", "--speculative-dspark-block-size": str(server.gamma)}
    return (dspark if server.speculative else {}) | {FLAGS[name]: str(value) for name, value in given.items()}


def environment(server: Server) -> dict[str, str]:
    """The environment variables that belong to :func:`flags` under speculation."""
    return {FLAGS[name]: str(getattr(server, name)) for name in ("verify_mode", "confidence_lag_steps")}


def fields(settings: Mapping[str, str]) -> dict[str, Any]:
    """What flags and variables say of a simulated server, by field; those that may be left out are SGLang's own."""
    said = {name: _value(name, settings[flag]) for name, flag in FLAGS.items() if flag in settings}
    return {name: _default(name) for name in (*OPTIONAL, "cuda_graph_bs_decode")} | said


def _captured(server: Server) -> dict[str, Any]:
    if server.cuda_graph_bs_decode is not None:
        return {"cuda_graph_bs_decode": " ".join(map(str, server.cuda_graph_bs_decode))}
    return {"capture_requests": server.captured_requests()} if server.capture_requests else {}


def _default(name: str) -> Any:
    return Server.model_fields[name].default


def _value(name: str, text: str) -> int | str | list[str]:
    if name == "cuda_graph_bs_decode":
        return text.split()
    return int(text) if text.isdecimal() else text
