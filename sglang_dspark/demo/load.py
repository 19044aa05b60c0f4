"""Requests to a running server, so many at once, and what came back of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from sglang_dspark.demo.server import Server


class Prompt(NamedTuple):
    """One request.

    Attributes:
        slo_class: Named to the policy; also the group in which results are told.
    """

    text: str
    tokens: int
    slo_class: str
    temperature: float = 0.0


class Answer(NamedTuple):
    """One request's result.

    Attributes:
        tokens: int, tokens generated.
        output_ids: The tokens themselves.
        rounds: Verification rounds; 0 without speculation.
        verify_lengths: Rounds by drafts verified, as far as the server tells.
        elapsed_s: From sending to the last token.
        error: Why it failed; empty where it did not.
    """

    prompt: Prompt
    text: str
    output_ids: tuple[int, ...]
    rounds: int
    verify_lengths: tuple[int, ...]
    elapsed_s: float
    error: str = ""

    @property
    def tokens(self) -> int:
        return len(self.output_ids)


class Loaded(NamedTuple):
    """A load's results, in the order of the prompts."""

    answers: tuple[Answer, ...]
    elapsed_s: float

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.tokens for answer in self.answers) / self.elapsed_s

    @property
    def failed(self) -> int:
        return sum(bool(answer.error) for answer in self.answers)

    def of(self, slo_class: str) -> Loaded:
        """The answers of one class, over the whole load's time."""
        return Loaded(tuple(a for a in self.answers if a.prompt.slo_class == slo_class), self.elapsed_s)

    @property
    def accepted_length(self) -> float:
        """Tokens a round, the target's own included; a request's first token comes from its prefill."""
        rounds = sum(answer.rounds for answer in self.answers)
        return sum(max(answer.tokens - 1, 0) for answer in self.answers) / rounds if rounds else 1.0

    @property
    def verify_length(self) -> float:
        """Drafts verified a round; NaN where the server does not tell."""
        counts = [count for answer in self.answers for count in enumerate(answer.verify_lengths)]
        rounds = sum(count for _, count in counts)
        return sum(length * count for length, count in counts) / rounds if rounds else float("nan")


def ask(server: Server, prompt: Prompt, **parameters: Any) -> Answer:
    """Sends one request and waits for it."""
    started = time.monotonic()
    sampling = {
        "temperature": prompt.temperature,
        "max_new_tokens": prompt.tokens,
        "custom_params": {"slo_class": prompt.slo_class},
    }
    try:
        found = server.post("/generate", {"text": prompt.text, "sampling_params": sampling | parameters})
    except Exception as error:  # What a load test counts, whatever it is.
        return Answer(prompt, "", (), 0, (), time.monotonic() - started, f"{type(error).__name__}: {error}")
    meta = found["meta_info"]
    # Upstream's lengths count the anchor.
    lengths = tuple(meta.get("spec_cap_lens_histogram") or ())[1:]
    return Answer(
        prompt,
        found["text"],
        tuple(found["output_ids"]),
        int(meta.get("spec_verify_ct") or 0),
        lengths,
        time.monotonic() - started,
    )


def closed_loop(
    server: Server,
    prompts: Sequence[Prompt],
    clients: int,
    every: Callable[[int], None] | None = None,
    **parameters: Any,
) -> Loaded:
    """Keeps ``clients`` requests running until all prompts are answered.

    Args:
        every: Called with the number of answers so far after each of them, from the client that got it.
        parameters: Sampling parameters of all requests.
    """
    done = 0
    lock = threading.Lock()

    def one(prompt: Prompt) -> Answer:
        nonlocal done
        answer = ask(server, prompt, **parameters)
        with lock:
            done += 1
            if every is not None:
                every(done)
        return answer

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answers = tuple(pool.map(one, prompts))
    return Loaded(answers, time.monotonic() - started)
