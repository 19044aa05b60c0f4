"""The two servers of the experiment, the demo pair with and without speculation, and what they are asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from dspark_tuning.measuring.sim2real.cells import GAMMA
from sglang_dspark.demo.load import closed_loop
from sglang_dspark.demo.serve import prompts, put_in_force, temperatures
from sglang_dspark.demo.server import DSPARK, FLAGS, Server
from sglang_dspark.demo.text import CLASSES
from sglang_dspark.policy import AnyPolicy, Fixed, SpsAdditiveTable
from sglang_dspark.policy.artifact import Artifact, save, untuned
from sglang_dspark.serving.launch import POLICY

# Both servers alike. Without overlap, since the simulator does not model the step that it spends on a request that has
# just ended; without the prefix cache, since cells repeat prompts.
COMMON: Final = {**FLAGS, "--disable-overlap-schedule": "", "--disable-radix-cache": ""}
COMPACT: Final = {"SGLANG_RAGGED_VERIFY_MODE": "compact"}
# A machine that others use has steps that take what they take.
NO_FALLBACK: Final = {"--speculative-dspark-fallback-margin": "0"}
# What argmax believes before there is a profile.
GUESS: Final = SpsAdditiveTable(
    bias_seconds=0.05, bs_probes=(1,), alpha_seconds=(0.0,), m_probes=(1,), theta_seconds=(0.0,)
)


class Servers(NamedTuple):
    """Both running.

    Attributes:
        path: The policy file that ``steered`` follows.
    """

    plain: Server
    steered: Server
    path: Path

    def follow(self, made: Artifact) -> None:
        """Brings an artifact into force, which takes steps to come."""
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                closed_loop(self.steered, prompts(2, 3), 2)

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            put_in_force(self.steered, made, self.path)
        finally:
            stop.set()
            thread.join()


def artifact(policy: AnyPolicy, belief: SpsAdditiveTable, sts: tuple[float, ...] | None = None) -> Artifact:
    """An artifact for the demo pair.

    Args:
        sts: Temperatures; the demo's own where None.
    """
    return untuned(policy, belief, GAMMA, classes=CLASSES, sts_temperatures=sts or temperatures())


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Both servers, from their start to their end."""
    path = folder / "followed.json"
    save(artifact(Fixed(length=GAMMA), GUESS), path)
    steered = {**COMMON, **DSPARK, **NO_FALLBACK, POLICY: str(path)}
    with (
        Server(folder / "plain.log", COMMON) as plain,
        Server(folder / "steered.log", steered, COMPACT) as server,
    ):
        yield Servers(plain, server, path)


@contextmanager
def budget_server(folder: Path, table: Path) -> Iterator[Server]:
    """A stock server that schedules by its own cost table, from its start to its end."""
    flags = {**COMMON, **DSPARK, "--speculative-dspark-sps-table-path": str(table)}
    with Server(folder / "budget.log", flags, COMPACT) as server:
        yield server
