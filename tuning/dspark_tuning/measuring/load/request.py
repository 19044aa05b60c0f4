"""One streamed request, measured at its client."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from numpy.typing import NDArray


class SentRequest(NamedTuple):
    """A request that was sent, and its response.

    Attributes:
        id: Index in the workload.
        slo_class: Index of its class.
        measured: Whether it counts, unlike those of the warm-up and those that keep up the load at the end.
        prompt_tokens, output_tokens: As counted by the server up to the end of the response.
        sent_s: Time of sending, from the start of the run.
        ended_s: End of the response, from the start of the run.
        chunk_s, chunk_tokens: float64 and int64 [N], arrival times of tokens (from the start of the run) and their
            number.
        rounds: Verification rounds; 0 without speculation.
        verify_lengths: Number of rounds by drafts verified; empty if the server does not report it.
        error: Reason of a failure; empty without one.
        finished: Whether all its tokens arrived.
    """

    id: int
    slo_class: int
    measured: bool
    prompt_tokens: int
    output_tokens: int
    sent_s: float
    ended_s: float
    chunk_s: NDArray[np.float64]
    chunk_tokens: NDArray[np.int64]
    rounds: int = 0
    verify_lengths: tuple[int, ...] = ()
    error: str = ""
    finished: bool = False

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return float(self.chunk_s[0]) - self.sent_s

    @property
    def tpot_s(self) -> float:
        """(last - first) / (output - 1), as in ``sglang.bench_serving``; NaN for a single token."""
        if self.output_tokens < 2:
            return float("nan")
        return float(self.chunk_s[-1] - self.chunk_s[0]) / (self.output_tokens - 1)

    def itl_s(self) -> NDArray[np.float64]:
        """Inter-token latencies, float64 [tokens - 1]: tokens that arrive together share their gap equally.

        Tokens that arrive with the first one share the time to first token, as in ``dspark_simulator``.
        """
        shared = np.diff(self.chunk_s, prepend=self.sent_s) / self.chunk_tokens
        return np.repeat(shared, self.chunk_tokens)[1:]


class ResponseStream:
    """Reads the events of a ``/generate`` response and keeps the tokens and metadata so far."""

    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.tokens: list[int] = []
        self.total = 0
        self.meta: dict[str, Any] = {}

    def take(self, line: bytes) -> None:
        """Read one line of the response.

        Raises:
            ValueError: An unexpected line, or a failure of the request.
        """
        if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
            return
        now = time.perf_counter()
        event = json.loads(line[5:])
        if "error" in event:
            raise ValueError(str(event["error"].get("message", event["error"])))
        self.meta = event["meta_info"]
        reason = self.meta.get("finish_reason") or {}
        if reason.get("type") == "abort":
            raise ValueError(f"aborted: {reason.get('message', '')}")
        total = int(self.meta["completion_tokens"])
        if total > self.total:
            self.at_s.append(now)
            self.tokens.append(total - self.total)
            self.total = total


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    prompt: str | Sequence[int],
    sampling: dict[str, Any],
    stream: ResponseStream,
) -> str:
    """Send a request and read its response to the end.

    Returns:
        Reason of a failure; empty without one.
    """
    body: dict[str, Any] = {"sampling_params": sampling, "stream": True}
    body["text" if isinstance(prompt, str) else "input_ids"] = prompt
    try:
        async with session.post(f"{url}/generate", json=body) as answer:
            if answer.status != 200:
                return f"HTTP {answer.status}: {(await answer.text())[:200]}"
            async for line in answer.content:
                stream.take(line)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if stream.meta.get("finish_reason") else "the stream ended before the answer"
