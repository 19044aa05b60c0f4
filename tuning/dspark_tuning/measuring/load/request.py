"""One request over SSE, as its client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from numpy.typing import NDArray


class SentRequest(NamedTuple):
    """A request and what came of it.

    Attributes:
        id: Its place in the workload.
        slo_class: The place of its class.
        measured: It is not one of the warm-up, nor of those that keep the load up at the end.
        prompt_tokens, output_tokens: As the server counts them, as far as it got.
        sent_s: From the start of the run.
        chunk_s, chunk_tokens: float64 and int64 [N], when tokens came, from the start of the run, and how many.
        rounds: Verification rounds; 0 without speculation.
        verify_lengths: Rounds by drafts verified; empty where the server does not tell.
        error: Why it failed; empty where it did not.
        finished: All its tokens came.
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
        return float(self.chunk_s[0]) - self.sent_s

    @property
    def tpot_s(self) -> float:
        """(last - first) / (output - 1), as ``sglang.bench_serving`` has it; NaN for a single token."""
        if self.output_tokens < 2:
            return float("nan")
        return float(self.chunk_s[-1] - self.chunk_s[0]) / (self.output_tokens - 1)

    def itl_s(self) -> NDArray[np.float64]:
        """float64 [tokens - 1]: the gap since the tokens before, shared equally by the tokens that come together.

        Tokens that come with the first one share its time to the first token, as ``dspark_simulator`` has it.
        """
        shared = np.diff(self.chunk_s, prepend=self.sent_s) / self.chunk_tokens
        return np.repeat(shared, self.chunk_tokens)[1:]


class ResponseStream:
    """Reads the events of a ``/generate`` stream as they come; holds what is known at any time."""

    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.tokens: list[int] = []
        self.total = 0
        self.meta: dict[str, Any] = {}

    def take(self, line: bytes) -> None:
        """Takes one line of the stream.

        Raises:
            ValueError: It is not what SGLang sends, or says that the request failed.
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
    """Sends a request and reads its stream to the end.

    Returns:
        Why it failed; empty where it did not.
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
