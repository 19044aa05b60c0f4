"""Comparison of outputs with the plain server's, up to ties of the target's two best tokens."""

from __future__ import annotations

from sglang_dspark.local_server import reference
from sglang_dspark.local_server.closed_loop import Answers

MARGIN = 1e-4


def check(plain: list[list[int]], loaded: Answers, name: str) -> None:
    """Assert that every answer equals the plain server's; count ties of the target's two best tokens as equal."""
    excused = 0
    for expected, answer in zip(plain, loaded.answers, strict=True):
        got = list(answer.output_ids)
        if got == expected:
            continue
        at = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b)
        ids = reference.tokenizer()(answer.prompt.text)["input_ids"] + expected[:at]
        margin = reference.margin(ids)
        assert margin < MARGIN, (
            f"{name}: token {at} of {answer.prompt.text[-40:]!r} is {got[at]}, not {expected[at]}; margin {margin:.2e}"
        )
        excused += 1
    print(f"{name}: {len(plain)} prompts, {excused} ties excused, accepted length {loaded.accepted_length:.2f}")
