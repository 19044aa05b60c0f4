"""Sources of a recording: servers of either kind."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from dspark_tuning.measuring.recording.schema import About
from sglang_dspark.serving.step_schema import RECORDING


class Taken(NamedTuple):
    """Steps of one poll.

    Attributes:
        steps: Of ``RECORDING``, none of which was taken before.
        lost: Steps before or between them that nobody will have; the most that it can be.
    """

    steps: pa.Table
    lost: int = 0


class Source(Protocol):
    """A server that is recorded, from the making of the object to :meth:`end`."""

    @property
    def name(self) -> str:
        """Name of the source, for people."""

    @property
    def wait_s(self) -> float:
        """How long to wait before the next poll."""

    @property
    def restarts(self) -> int:
        """How often the recording began anew; what the server did before that and after the last poll is lost."""

    def poll(self) -> Taken:
        """Take the steps since the last poll.

        Raises:
            UnansweredError: The server did not answer; what it has is there the next time.
        """

    def end(self) -> None:
        """Leaves the server as it was.

        Raises:
            UnansweredError: The server did not answer.
        """

    def about(self, lost: int) -> About:
        """Metadata of the recording."""


def none() -> pa.Table:
    """No steps."""
    return RECORDING.empty_table()


def described(info: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`About` that ``/server_info`` has."""
    state = info["internal_states"][0]

    def number(name: str) -> int | None:
        value = state.get(name, info.get(name))
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    return {
        "engine": str(info.get("version", "")),
        "model": str(info.get("model_path", "")),
        "draft_model": str(info.get("speculative_draft_model_path", "")),
        "tp_size": number("tp_size") or 1,
        "dp_size": len(info["internal_states"]),
        "max_running_requests": number("effective_max_running_requests_per_dp") or number("max_running_requests"),
        "max_total_num_tokens": state.get("memory_usage", {}).get("token_capacity") or number("max_total_num_tokens"),
        "chunked_prefill_size": number("chunked_prefill_size"),
        "max_prefill_tokens": number("max_prefill_tokens"),
        "page_size": number("page_size"),
        "disable_overlap": bool(info.get("disable_overlap_schedule", False)),
    }
