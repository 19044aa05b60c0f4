"""Replacing the policy file of a running server, and keeping the server busy so that the policy takes effect."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sglang_dspark.demo import STS
from sglang_dspark.demo.text import CLASSES, held_out
from sglang_dspark.local_server.closed_loop import Answers, Prompt, closed_loop
from sglang_dspark.local_server.mixed_prompts import mixed
from sglang_dspark.local_server.process import ServerProcess
from sglang_dspark.policy.artifact import Artifact, save

DEADLINE_S: Final = 300.0


class SteeredServer(NamedTuple):
    """A server that follows a policy file."""

    server: ServerProcess
    path: Path

    def use(self, artifact: Artifact) -> None:
        """Bring a policy into force; a policy takes effect in a step, so the server is kept busy meanwhile."""
        warm = mixed()[:2]
        with Busy(lambda: self.server.ended or closed_loop(self.server, warm, 2)):
            put_in_force(self.server, artifact, self.path)

    def reload_under_load(self, artifacts: Sequence[Artifact], times: int) -> Answers:
        """Replace the policy by each artifact in turn while requests run; the answers show whether any failed."""

        def replace(done: int) -> None:
            if done % 3 == 0:
                save(artifacts[done // 3 % len(artifacts)], self.path)

        return closed_loop(self.server, prompts(3 * times, 11), 8, replace)


class Busy:
    """Repeat a call in another thread while the ``with`` block lasts."""

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


def put_in_force(server: ServerProcess, artifact: Artifact, path: Path) -> None:
    """Replace the policy file of a server that is answering requests, and wait until the server follows it.

    Raises:
        TimeoutError: It does not within ``DEADLINE_S``; the server's log has the reason.
    """
    save(artifact, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    deadline = time.monotonic() + DEADLINE_S
    while server.state()["dspark_policy"]["sha256"] != digest:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is not followed; the end of {server.log}:\n{server.tail()}")
        time.sleep(0.1)


def prompts(count: int, seed: int, prompt_tokens: int = 64, output_tokens: int = 48) -> list[Prompt]:
    """Make prompts of held-out text, of every class in turn."""
    by_class = [held_out(klass, -(-count // len(CLASSES)), prompt_tokens, seed) for klass in CLASSES]
    rows = (zip(row, CLASSES, strict=True) for row in zip(*by_class, strict=True))
    return [Prompt(text, output_tokens, klass) for row in rows for text, klass in row][:count]


def sts_temperatures() -> tuple[float, ...]:
    """Read the demo pair's confidence temperatures."""
    return tuple(json.loads(STS.read_text())["temperatures"])
