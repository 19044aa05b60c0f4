"""Experiments on real servers of this machine: calibrate on them, tune in the simulator, and measure the tuned policy.

:func:`run` (``dspark sim2real``) also predicts cells that the calibration did not see. :func:`serve_demo`
(``make serve-demo``) is the short form: it compares SGLang's serving modes with the tuned policy and replaces the
policy under load.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd
import yaml

from dspark_simulator import profile as profiles
from dspark_simulator.costs import sps_additive
from dspark_simulator.scenario import Scenario, load
from dspark_simulator.simulation import Arm
from dspark_simulator.workloads import Workload
from dspark_tuning.measuring.calibrate import plain, step_cells
from dspark_tuning.measuring.calibrate.calibration import Calibrated, calibrate
from dspark_tuning.measuring.recording.schema import read
from dspark_tuning.measuring.sim2real.cells import (
    CALIBRATION,
    CLIENTS,
    GAMMA,
    LOADS,
    PLAIN,
    PLAIN_CALIBRATION,
    POLICIES,
    Cell,
)
from dspark_tuning.measuring.sim2real.measure import Measured, figures, measure, recording
from dspark_tuning.measuring.sim2real.predict import CellFigures, at, classes, predicted, spread
from dspark_tuning.measuring.sim2real.servers import (
    GUESS,
    Servers,
    artifact,
    budget_server,
    default_server,
    servers,
    tuned_server,
)
from dspark_tuning.search import baselines, named_arms
from sglang_dspark.demo.text import CLASSES, held_out
from sglang_dspark.local_server.process import ServerProcess
from sglang_dspark.policy import Argmax, Fixed, SpsAdditiveTable
from sglang_dspark.policy.artifact import Artifact
from sglang_dspark.policy.artifact import load as load_artifact

PROMPT_TOKENS: Final = 64
OUTPUT_TOKENS: Final = 48
# Texts per class. All cells send the same texts, once or several times, so that they differ only in policy and load.
TEXTS: Final = 8
POOL: Final = len(CLASSES) * TEXTS
REQUESTS: Final = 2 * POOL
RUNNING: Final = 16
RELOADS: Final = 20

VERIFY_ALL: Final = "verify-all"
BUDGET: Final = "SGLang's budget, its own profiled table"
TUNED: Final = "tuned"
TUNED_POLICY: Final = Path("tuned", "policy.json")


class CellResult(NamedTuple):
    """A cell as measured and as predicted; ``spread`` is half the range of repeats, relative to their mean."""

    name: str
    load: str
    measured: CellFigures
    predicted: CellFigures
    spread: float

    @property
    def error(self) -> float:
        """Relative error of the predicted throughput."""
        return self.predicted.throughput_tok_s / self.measured.throughput_tok_s - 1

    @property
    def tpot_error(self) -> float:
        """Relative error of the predicted TPOT."""
        return self.predicted.tpot_s / self.measured.tpot_s - 1


class Sim2Real(NamedTuple):
    """The results of :func:`run`.

    Attributes:
        cells: Cells that the calibration did not see.
        loop: Serving modes after the tuning, by clients.
        advice: The tuner's advice.
    """

    cells: tuple[CellResult, ...]
    loop: tuple[CellResult, ...]
    calibrated: Calibrated
    advice: str


class ServedDemo(NamedTuple):
    """The results of :func:`serve_demo`.

    Attributes:
        modes: Serving modes by clients.
        tuned: The tuned policy's artifact.
        reloads: Policy files that the server took under load.
        requests, failed: Requests meanwhile.
    """

    modes: tuple[CellResult, ...]
    tuned: Artifact
    reloads: int
    requests: int
    failed: int


class ServingMode(NamedTuple):
    """A server to measure and the arm that simulates it.

    Attributes:
        artifact: The policy to bring into force first, on the server that follows a policy file.
    """

    name: str
    server: ServerProcess
    arm: Arm
    artifact: Artifact | None = None


Say = Callable[[str], None]


def run(folder: Path, repeats: int, trials: int, say: Say) -> Sim2Real:
    """Run the whole experiment on this machine; recordings, profile, policy, logs and tables stay in ``folder``."""
    with servers(folder) as both:
        session = Session(folder, both, repeats, say)
        cells = session.compare(session.cell_modes(), LOADS, folder / "cells.parquet")
        tuned = session.tune(trials)
        table = session.profiled_table()
        with session.loop_modes(tuned, table) as modes:
            loop = session.compare(modes, CLIENTS, folder / "loop.parquet")
    frame(cells).to_csv(folder / "cells.csv", index=False)
    frame(loop).to_csv(folder / "loop.csv", index=False)
    return Sim2Real(tuple(cells), tuple(loop), session.calibrated, tuned.advice)


def serve_demo(folder: Path, trials: int, say: Say) -> ServedDemo:
    """Compare SGLang's serving modes with a policy tuned for this machine, and replace the policy under load."""
    with servers(folder) as both:
        session = Session(folder, both, 1, say)
        tuned = session.tune(trials)
        table = session.profiled_table()
        with session.loop_modes(tuned, table) as modes:
            results = session.compare(modes, CLIENTS, folder / "loop.parquet")
        say("replacing the policy under load")
        steered = both.steered
        before = steered.server.state()["dspark_policy"]["version"]
        belief = _table(table)
        in_turn = [artifact(Fixed(length=length), belief) for length in (3, GAMMA)]
        reloaded = steered.reload_under_load(in_turn, RELOADS)
        reloads = steered.server.state()["dspark_policy"]["version"] - before
    with default_server(folder) as server:
        arm = baselines.default(session.scenario)
        results += session.compare([ServingMode(arm.name, server, arm)], CLIENTS)
    return ServedDemo(tuple(results), tuned, reloads, len(reloaded.answers), reloaded.failed)


class Session:
    """Both servers and the profile calibrated on them.

    Attributes:
        calibrated: The calibration; its profile is ``profile.json`` of the folder.
        scenario: The profile with the experiment's traffic, as ``scenario.yaml`` of the folder, which the tuner reads.
    """

    def __init__(self, folder: Path, both: Servers, repeats: int, say: Say) -> None:
        self._folder, self._both, self._repeats, self._say = folder, both, repeats, say
        self._texts: dict[str, list[str]] = {name: held_out(name, TEXTS, PROMPT_TOKENS, 5) for name in CLASSES}
        self._workload = {
            "arrivals": {"kind": "closed", "clients": 1},
            "classes": classes(CLASSES, PROMPT_TOKENS, OUTPUT_TOKENS),
        }
        self.calibrated = self._calibrate()
        profiles.save(self.calibrated.profile, folder / "profile.json")
        self.scenario = self._scenario()

    def cell_modes(self) -> list[ServingMode]:
        """Return the serving modes of ``POLICIES``."""
        belief = sps_additive(self.scenario.profiled_steps(GAMMA), RUNNING, RUNNING * (GAMMA + 1))
        server = baselines.compact(self.scenario.server)
        return [
            ServingMode(name, self._both.plain, baselines.plain(self.scenario))
            if policy is None
            else ServingMode(name, self._both.steered.server, Arm(name, server, policy), artifact(policy, belief))
            for name, policy in POLICIES.items()
        ]

    @contextmanager
    def loop_modes(self, tuned: Artifact, table: Path) -> Iterator[list[ServingMode]]:
        """Run the servers of the tuned policy and of the serving modes without it while the block lasts.

        Args:
            tuned: The tuner's artifact. It may choose the server without speculation, or a baseline with another block
                than the servers of the calibration have.
            table: The cost table of SGLang's own budget.
        """
        belief = _table(table)
        server = baselines.compact(self.scenario.server)
        plain_server, steered = self._both.plain, self._both.steered.server
        verify_all = Fixed(length=GAMMA)
        arm = named_arms.tuned(self._folder / TUNED_POLICY, self.scenario)
        serves_plain = tuned.serve == "plain"
        with (
            budget_server(self._folder, table) as budget,
            nullcontext(plain_server) if serves_plain else tuned_server(self._folder, tuned) as chosen,
        ):
            yield [
                ServingMode(PLAIN, plain_server, baselines.plain(self.scenario)),
                ServingMode(VERIFY_ALL, steered, Arm(VERIFY_ALL, server, verify_all), artifact(verify_all, belief)),
                ServingMode(BUDGET, budget, Arm(BUDGET, server, Argmax(), belief, stock=True)),
                ServingMode(TUNED, chosen, arm),
            ]

    def compare(
        self, modes: Sequence[ServingMode], loads: Sequence[int | None], record: Path | None = None
    ) -> list[CellResult]:
        """Measure and predict every mode at every load.

        Repeats are interleaved, so that drift of the machine affects all cells equally.

        Args:
            modes: The serving modes.
            loads: Clients of closed loops; None for the open loop.
            record: The recording of the server that follows a policy file; None where no mode uses it.
        """
        cells = [(mode, Cell(mode.name, load)) for load in loads for mode in modes]
        runs: dict[Cell, list[Measured]] = {cell: [] for _, cell in cells}
        with nullcontext() if record is None else recording(self._both.steered.server, record):
            for repeat in range(self._repeats):
                for mode, cell in cells:
                    self._say(f"measuring {mode.name} at {cell.load}, {repeat + 1} of {self._repeats}")
                    if mode.artifact is not None:
                        self._both.steered.use(mode.artifact)
                    traffic = at(self.scenario.workload, cell)
                    runs[cell].append(measure(mode.server, traffic, _requests(cell), self._texts)[0])
        return [
            CellResult(
                mode.name,
                cell.load,
                figures(runs[cell], record if mode.artifact is not None else None),
                predicted(self.scenario, cell, mode.arm, _requests(cell)),
                spread([run.throughput_tok_s for run in runs[cell]]),
            )
            for mode, cell in cells
        ]

    def tune(self, trials: int) -> Artifact:
        """Run ``dspark tune`` on the calibrated profile, with the servers' flags pinned."""
        self._say("tuning on the calibrated profile")
        pins = {"gamma": GAMMA, "max_running_requests": RUNNING, "verify_mode": "compact", "chunked_prefill_size": 4096}
        words = [word for name, value in pins.items() for word in ("--pin", f"{name}={value}")]
        out = self._folder / TUNED_POLICY.parent
        command = [sys.executable, "-m", "dspark_tuning.cli", "tune", str(self._folder / "scenario.yaml"), *words]
        command += ["--out", str(out), "--trials", str(trials), "--replications", "6"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return load_artifact(self._folder / TUNED_POLICY)

    def profiled_table(self) -> Path:
        """Fit the recorded steps with SGLang's own profiler (``sglang.benchmark.dspark_sps_profiler fit``)."""
        steps = step_cells.decodes(read([self._folder / "run.parquet"]))
        drafted = steps[steps["drafted"]].groupby(["requests", "tokens"])
        groups = drafted["step_s"].agg(["median", "size"]).query("size >= 5").reset_index()
        rounds = [
            {
                "batch_size_per_rank": int(row["requests"]),
                "batch_tokens": int(row["tokens"]),
                "steps_per_sec": 1 / float(row["median"]),
                "frac": 1.0,
            }
            for row in groups.to_dict("records")
        ]
        out = self._folder / "sps_table.json"
        (self._folder / "sps_table.rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds))
        command = [sys.executable, "-m", "sglang.benchmark.dspark_sps_profiler", "fit", "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return out

    def _calibrate(self) -> Calibrated:
        self._say("calibrating")
        traffic = Workload.model_validate(self._workload)
        out = self._folder / "run.parquet"
        steered = self._both.steered
        with recording(steered.server, out):
            for policy, clients in CALIBRATION:
                steered.use(artifact(policy, GUESS))
                measure(steered.server, traffic.with_clients(clients), REQUESTS, self._texts)
        steps = []
        for clients in PLAIN_CALIBRATION:
            _, loaded = measure(self._both.plain, traffic.with_clients(clients), REQUESTS, self._texts)
            steps.append(plain.steps(loaded.requests, clients))
        return calibrate([out], pd.concat(steps, ignore_index=True), "this machine's CPU", 1, CLIENTS)

    def _scenario(self) -> Scenario:
        content: dict[str, Any] = {
            "name": "sim2real",
            "profile": "profile.json",
            "workload": self._workload,
            "loads": list(CLIENTS),
            "run": {"requests": REQUESTS + 24, "warmup_requests": 24},
        }
        path = self._folder / "scenario.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load(str(path))


def frame(results: Sequence[CellResult]) -> pd.DataFrame:
    """Convert results to a table of measured figures, predicted figures and errors."""
    return pd.DataFrame(
        [
            {
                "policy": row.name,
                "load": row.load,
                **{f"measured_{k}": v for k, v in row.measured._asdict().items()},
                **{f"predicted_{k}": v for k, v in row.predicted._asdict().items()},
                "error": row.error,
                "tpot_error": row.tpot_error,
                "spread": row.spread,
            }
            for row in results
        ]
    )


def _requests(cell: Cell) -> int:
    """Return the number of requests with which all cells take about the same time."""
    return {CLIENTS[0]: POOL, CLIENTS[-1]: 2 * REQUESTS, None: POOL}.get(cell.clients, REQUESTS)


def _table(path: Path) -> SpsAdditiveTable:
    """Read SGLang's table; its profiler rounds tokens to multiples of 64, the lowest to 0, which stands for 1."""
    content = json.loads(path.read_text())
    content["m_probes"] = [max(probe, 1) for probe in content["m_probes"]]
    return SpsAdditiveTable.model_validate(content)
