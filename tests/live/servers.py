"""The servers that the tests share: one for each configuration, started once by the tests that need it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sglang_dspark.demo.load import Loaded, closed_loop
from sglang_dspark.demo.mixed_prompts import mixed
from sglang_dspark.demo.policies import artifact
from sglang_dspark.demo.serve import POLICY, put_in_force
from sglang_dspark.demo.server import DSPARK, Server
from sglang_dspark.policy.artifact import Artifact, save

CLIENTS = 16

# Small chunks, so that prompts are prefilled in several.
FLAGS = {"--chunked-prefill-size": "64", "--enable-metrics": "", "--max-running-requests": "32"}
# A test machine is busy, and its steps take what they take.
NO_FALLBACK = {"--speculative-dspark-fallback-margin": "0"}


def _configuration(mode: str, overlap: bool) -> object:
    group = "overlap" if overlap else "sync"
    return pytest.param((mode, overlap), id=f"{mode}-{group}", marks=pytest.mark.xdist_group(group))


COMPACT, CAP_ACCEPT = _configuration("compact", True), _configuration("cap-accept", True)
COMPACT_SYNC, CAP_ACCEPT_SYNC = _configuration("compact", False), _configuration("cap-accept", False)


class Steered(NamedTuple):
    """A server that follows a policy file."""

    server: Server
    path: Path

    def use(self, made: Artifact) -> None:
        """Brings an artifact into force, which takes a step that is under way or to come."""
        warm = mixed()[:2]
        with Busy(lambda: closed_loop(self.server, warm, 2)):
            put_in_force(self.server, made, self.path)


class Busy:
    """Repeats a call in another thread for as long as the block lasts."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(call,))

    def _run(self, call: Callable[[], object]) -> None:
        while not self._stop.is_set():
            call()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def steered(
    folder: Path, mode: str, overlap: bool, environment: dict[str, str] | None = None, **flags: str
) -> Iterator[Steered]:
    """A DSPARK server with a policy, in verify mode ``mode``."""
    path = folder / "policy.json"
    save(artifact("threshold"), path)
    asked = {**FLAGS, **DSPARK, **NO_FALLBACK, POLICY: str(path), **flags}
    if not overlap:
        asked["--disable-overlap-schedule"] = ""
    chosen = {"SGLANG_RAGGED_VERIFY_MODE": mode, **(environment or {})}
    with Server(folder / "server.log", asked, chosen) as server:
        yield Steered(server, path)


def plain_outputs(folder: Path) -> list[list[int]]:
    """What the server without speculation answers to :func:`mixed`, made once and kept in ``folder``."""
    kept = folder / "plain.json"
    if not kept.exists():
        with Server(folder / "plain.log", FLAGS) as server:
            answers = ask_all(server).answers
        kept.write_text(json.dumps([answer.output_ids for answer in answers]))
    return list(json.loads(kept.read_text()))


def answers_in_order(server: Server, turns: Iterable[tuple[int, int, dict[str, Any]]], tokens: int) -> list[Any]:
    """Ids and verify steps of each answer, one request after the other.

    SGLang draws a prompt's first token from a generator that all requests share, so their order is fixed.

    Args:
        turns: The number of a prompt of :func:`mixed`, what tells its requests apart, and how it is sampled.
    """
    answers = []
    for prompt, which, sampling in turns:
        content = {
            "text": mixed()[prompt].text,
            "rid": f"request {prompt} {which}",
            "sampling_params": {**sampling, "max_new_tokens": tokens, "ignore_eos": True},
        }
        answer = server.post("/generate", content)
        answers.append((answer["output_ids"], answer["meta_info"]["spec_verify_ct"]))
    return answers


def ask_all(server: Server) -> Loaded:
    """Asks all prompts, sixteen at once, to their last token."""
    loaded = closed_loop(server, mixed(), CLIENTS, ignore_eos=True)
    assert not loaded.failed, next(answer.error for answer in loaded.answers if answer.error)
    return loaded
