"""SGLang flags and environment variables of a simulated server, and the simulated server of such flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspark_simulator.server import Server

# Flag or environment variable by field of the simulated server.
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

# Flags that are given only if they differ from SGLang's defaults.
OPTIONAL = (
    "min_free_slots_delay",
    "prefill_decode_interval",
    "prefill_decode_interval_min_bs",
    "prefill_max_requests",
    "max_queued_requests",
)


def flags(server: Server) -> dict[str, str]:
    """SGLang flags of a server with their values; spaces separate the values of a list."""
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
    """Environment variables of a server with speculation, in addition to :func:`flags`."""
    return {FLAGS[name]: str(getattr(server, name)) for name in ("verify_mode", "confidence_lag_steps")}


def fields(settings: Mapping[str, str]) -> dict[str, Any]:
    """Fields of the simulated server from flags and variables; omitted optional ones have SGLang's defaults."""
    given = {name: _value(name, settings[flag]) for name, flag in FLAGS.items() if flag in settings}
    return {name: _default(name) for name in (*OPTIONAL, "cuda_graph_bs_decode")} | given


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
