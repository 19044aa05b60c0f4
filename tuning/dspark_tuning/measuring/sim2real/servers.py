"""The servers of the experiments: the demo pair with and without speculation, and SGLang's own serving modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from dspark_tuning.measuring.sim2real.cells import GAMMA
from sglang_dspark.demo.text import CLASSES
from sglang_dspark.local_server.process import DSPARK, FLAGS, NO_FALLBACK, ServerProcess
from sglang_dspark.local_server.steering import SteeredServer, sts_temperatures
from sglang_dspark.policy import AnyPolicy, Fixed, SpsAdditiveTable
from sglang_dspark.policy.artifact import Artifact, save, untuned
from sglang_dspark.serving.launch import POLICY

# No overlap, because the simulator does not model the step that overlap spends on a request that has just ended. No
# prefix cache, because cells repeat prompts.
COMMON: Final = {**FLAGS, "--disable-overlap-schedule": "", "--disable-radix-cache": ""}
COMPACT: Final = {"SGLANG_RAGGED_VERIFY_MODE": "compact"}
# The cost belief of artifacts before the calibration.
GUESS: Final = SpsAdditiveTable(
    bias_seconds=0.05, bs_probes=(1,), alpha_seconds=(0.0,), m_probes=(1,), theta_seconds=(0.0,)
)


class Servers(NamedTuple):
    """The server without speculation, and the server that follows a policy file."""

    plain: ServerProcess
    steered: SteeredServer


def artifact(policy: AnyPolicy, belief: SpsAdditiveTable, sts: tuple[float, ...] | None = None) -> Artifact:
    """Make an artifact for the demo pair.

    Args:
        policy: The policy.
        belief: The cost belief.
        sts: Confidence temperatures; by default the packaged ones.
    """
    return untuned(policy, belief, GAMMA, classes=CLASSES, sts_temperatures=sts or sts_temperatures())


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Run both servers while the block lasts."""
    path = folder / "followed.json"
    save(artifact(Fixed(length=GAMMA), GUESS), path)
    steered = {**COMMON, **DSPARK, **NO_FALLBACK, POLICY: str(path)}
    with (
        ServerProcess(folder / "plain.log", COMMON) as plain,
        ServerProcess(folder / "steered.log", steered, COMPACT) as server,
    ):
        yield Servers(plain, SteeredServer(server, path))


@contextmanager
def budget_server(folder: Path, table: Path) -> Iterator[ServerProcess]:
    """Run SGLang's own budget planner with a cost table while the block lasts."""
    flags = {**COMMON, **DSPARK, "--speculative-dspark-sps-table-path": str(table)}
    with ServerProcess(folder / "budget.log", flags, COMPACT) as server:
        yield server


@contextmanager
def tuned_server(folder: Path, tuned: Artifact) -> Iterator[ServerProcess]:
    """Run a server with the flags, block and policy of an artifact while the block lasts."""
    path = folder / "tuned_policy.json"
    save(tuned, path)
    flags = {**COMMON, **DSPARK, **tuned.server_flags, **NO_FALLBACK, POLICY: str(path)}
    with ServerProcess(folder / "tuned.log", flags, tuned.environment) as server:
        yield server


@contextmanager
def default_server(folder: Path) -> Iterator[ServerProcess]:
    """Run SGLang's DSPARK with its defaults (static verification of whole blocks) while the block lasts."""
    with ServerProcess(folder / "static.log", {**COMMON, **DSPARK}) as server:
        yield server
