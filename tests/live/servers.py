"""Servers that live tests share, one for each configuration, and requests to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.local_server.closed_loop import Answers, closed_loop
from sglang_dspark.local_server.mixed_prompts import mixed
from sglang_dspark.local_server.policies import artifact
from sglang_dspark.local_server.process import DSPARK, NO_FALLBACK, ServerProcess
from sglang_dspark.local_server.steering import SteeredServer
from sglang_dspark.policy.artifact import save
from sglang_dspark.serving.launch import POLICY

CLIENTS = 16

SPAWNED = ("-m", "sglang.launch_server")
# -P: no folder of the tests on the path of plugins.
FORKED = ("-P", str(Path(__file__).with_name("forked_server.py")))
"""Launcher of a server that starts in a third of the time."""

# Small chunks, so that prompts are prefilled in several.
FLAGS = {"--chunked-prefill-size": "64", "--enable-metrics": "", "--max-running-requests": "32"}


def _configuration(mode: str, overlap: bool) -> object:
    group = "overlap" if overlap else "sync"
    return pytest.param((mode, overlap), id=f"{mode}-{group}", marks=pytest.mark.xdist_group(group))


COMPACT, CAP_ACCEPT = _configuration("compact", True), _configuration("cap-accept", True)
COMPACT_SYNC, CAP_ACCEPT_SYNC = _configuration("compact", False), _configuration("cap-accept", False)


@contextmanager
def steered(
    folder: Path,
    mode: str,
    overlap: bool,
    environment: dict[str, str] | None = None,
    **flags: str,
) -> Iterator[SteeredServer]:
    """A DSPARK server with a policy, in verify mode ``mode``.

    Servers of most tests are forked; that of ``COMPACT`` is spawned, as users' servers are.
    """
    path = folder / "policy.json"
    save(artifact("threshold"), path)
    asked = {**FLAGS, **DSPARK, **NO_FALLBACK, POLICY: str(path), **flags}
    if not overlap:
        asked["--disable-overlap-schedule"] = ""
    chosen = {"SGLANG_RAGGED_VERIFY_MODE": mode, **(environment or {})}
    launcher = SPAWNED if (mode, overlap) == ("compact", True) and not (environment or flags) else FORKED
    with ServerProcess(folder / "server.log", asked, chosen, launcher) as server:
        yield SteeredServer(server, path)


def plain_outputs(folder: Path) -> list[list[int]]:
    """Output ids of the server without speculation for :func:`mixed`, made once and kept in ``folder``."""
    kept = folder / "plain.json"
    if not kept.exists():
        with ServerProcess(folder / "plain.log", FLAGS, launcher=FORKED) as server:
            answers = ask_all(server).answers
        kept.write_text(json.dumps([answer.output_ids for answer in answers]))
    return list(json.loads(kept.read_text()))


def answers_in_order(server: ServerProcess, turns: Iterable[tuple[int, int, dict[str, Any]]], tokens: int) -> list[Any]:
    """Ids and verify steps of each answer, one request after the other.

    SGLang draws a prompt's first token from a generator that all requests share, so their order is fixed.

    Args:
        turns: Of each request its prompt in :func:`mixed` by number, a number of its own, and its sampling parameters.
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


def ask_all(server: ServerProcess) -> Answers:
    """Send all prompts, sixteen at once, each to its last token."""
    loaded = closed_loop(server, mixed(), CLIENTS, ignore_eos=True)
    assert not loaded.failed, next(answer.error for answer in loaded.answers if answer.error)
    return loaded
