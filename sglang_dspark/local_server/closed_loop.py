"""Closed-loop load on a server: a fixed number of clients, each waiting for its answer before the next request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from sglang_dspark.sglang_client import Client, verify_lengths


class Prompt(NamedTuple):
    """One request.

    Attributes:
        tokens: Tokens of the answer, at most.
        slo_class: The request's class, for the policy and for :meth:`Answers.of`.
    """

    text: str
    tokens: int
    slo_class: str
    temperature: float = 0.0


class Answer(NamedTuple):
    """One request's result.

    Attributes:
        output_ids: The tokens generated.
        rounds: Verification rounds; 0 without speculation.
        verify_lengths: Number of rounds by drafts verified; empty where the server does not report it.
        elapsed_s: From sending to the last token.
        error: The reason of a failure; empty on success.
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
        """Number of tokens generated."""
        return len(self.output_ids)


class Answers(NamedTuple):
    """A load's results, in the order of the prompts."""

    answers: tuple[Answer, ...]
    elapsed_s: float

    @property
    def tokens_per_s(self) -> float:
        """Throughput of the load."""
        return sum(answer.tokens for answer in self.answers) / self.elapsed_s

    @property
    def failed(self) -> int:
        """Number of failed requests."""
        return sum(bool(answer.error) for answer in self.answers)

    def of(self, slo_class: str) -> Answers:
        """Return the answers of one class, with the elapsed time of the whole load."""
        return Answers(tuple(a for a in self.answers if a.prompt.slo_class == slo_class), self.elapsed_s)

    @property
    def accepted_length(self) -> float:
        """Tokens per round, the target's own included; a request's first token comes from its prefill."""
        rounds = sum(answer.rounds for answer in self.answers)
        return sum(max(answer.tokens - 1, 0) for answer in self.answers) / rounds if rounds else 1.0

    @property
    def verify_length(self) -> float:
        """Drafts verified per round; NaN where the server does not report it."""
        counts = [count for answer in self.answers for count in enumerate(answer.verify_lengths)]
        rounds = sum(count for _, count in counts)
        return sum(length * count for length, count in counts) / rounds if rounds else float("nan")


def ask(client: Client, prompt: Prompt, **parameters: Any) -> Answer:
    """Send one request and wait for its answer.

    Args:
        client: The server.
        prompt: The request.
        parameters: Additional sampling parameters.
    """
    started = time.monotonic()
    sampling = {
        "temperature": prompt.temperature,
        "max_new_tokens": prompt.tokens,
        "custom_params": {"slo_class": prompt.slo_class},
    }
    try:
        content = client.post("/generate", {"text": prompt.text, "sampling_params": sampling | parameters})
    except Exception as error:  # A load test counts every kind of failure.
        return Answer(prompt, "", (), 0, (), time.monotonic() - started, f"{type(error).__name__}: {error}")
    meta = content["meta_info"]
    return Answer(
        prompt,
        content["text"],
        tuple(content["output_ids"]),
        int(meta.get("spec_verify_ct") or 0),
        verify_lengths(meta),
        time.monotonic() - started,
    )


def closed_loop(
    client: Client,
    prompts: Sequence[Prompt],
    clients: int,
    every: Callable[[int], None] | None = None,
    **parameters: Any,
) -> Answers:
    """Keep ``clients`` requests running until all prompts are answered.

    Args:
        client: The server.
        prompts: The requests.
        clients: Requests in flight.
        every: Called after each answer with the number of answers so far, from the thread that received it.
        parameters: Sampling parameters of all requests.
    """
    done = 0
    lock = threading.Lock()

    def one(prompt: Prompt) -> Answer:
        nonlocal done
        answer = ask(client, prompt, **parameters)
        with lock:
            done += 1
            if every is not None:
                every(done)
        return answer

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answers = tuple(pool.map(one, prompts))
    return Answers(answers, time.monotonic() - started)
