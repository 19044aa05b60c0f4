"""The experiment: calibrate, measure what the calibration did not see, tune, and measure what that gains."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd
import yaml

from dspark_simulator import profile as profiles
from dspark_simulator.costs import sps_additive
from dspark_simulator.scenario import Scenario, load
from dspark_simulator.simulation import Arm
from dspark_simulator.workloads import Workload
from dspark_tuning.measuring.calibrate import cells as recorded_cells
from dspark_tuning.measuring.calibrate import plain
from dspark_tuning.measuring.calibrate.calibration import Calibrated, calibrate
from dspark_tuning.measuring.recording.schema import read
from dspark_tuning.measuring.sim2real.cells import (
    CALIBRATION,
    CELLS,
    CLIENTS,
    GAMMA,
    PLAIN,
    PLAIN_CALIBRATION,
    POLICIES,
    Cell,
)
from dspark_tuning.measuring.sim2real.measure import Measured, figures, measure, recording
from dspark_tuning.measuring.sim2real.predict import Figures, at, classes, predicted, predicted_arm, spread
from dspark_tuning.measuring.sim2real.servers import GUESS, Servers, artifact, budget_server, servers
from dspark_tuning.search import baselines
from sglang_dspark.demo.text import CLASSES, held_out
from sglang_dspark.policy import Argmax, Fixed, SpsAdditiveTable
from sglang_dspark.policy.artifact import load as load_artifact

PROMPT_TOKENS: Final = 64
OUTPUT_TOKENS: Final = 48
# Texts of each class; all cells ask for the same ones, once or several times, so that they differ in what is compared.
TEXTS: Final = 8
POOL: Final = len(CLASSES) * TEXTS
REQUESTS: Final = 2 * POOL
RUNNING: Final = 16

VERIFY_ALL: Final = "verify-all"
BUDGET: Final = "SGLang's budget, its own profiled table"
TUNED: Final = "tuned"


class Row(NamedTuple):
    """A cell: what was measured, what was predicted, and how far repeats differ, a fraction either way."""

    name: str
    load: str
    measured: Figures
    predicted: Figures
    spread: float

    @property
    def error(self) -> float:
        return self.predicted.throughput_tok_s / self.measured.throughput_tok_s - 1

    @property
    def tpot_error(self) -> float:
        return self.predicted.tpot_s / self.measured.tpot_s - 1


class Outcome(NamedTuple):
    """What came out.

    Attributes:
        cells: That the calibration did not see.
        loop: Ways of serving after the tuning, by clients.
        advice: What the tuner says.
    """

    cells: tuple[Row, ...]
    loop: tuple[Row, ...]
    calibrated: Calibrated
    advice: str


Say = Callable[[str], None]


def run(folder: Path, repeats: int, trials: int, say: Say) -> Outcome:
    """Runs everything on this machine; ``folder`` keeps recordings, profile, policy, logs and tables."""
    texts: dict[str, list[str]] = {name: held_out(name, TEXTS, PROMPT_TOKENS, 5) for name in CLASSES}
    workload = {"arrivals": {"kind": "closed", "clients": 1}, "classes": classes(CLASSES, PROMPT_TOKENS, OUTPUT_TOKENS)}
    with servers(folder) as both:
        say("calibrating")
        calibrated = _calibrate(both, folder, workload, texts)
        profiles.save(calibrated.profile, folder / "profile.json")
        scenario = _scenario(folder, workload)
        belief = sps_additive(scenario.profiled_steps(GAMMA), RUNNING, RUNNING * (GAMMA + 1))
        rows = _cells(both, folder, scenario, belief, texts, repeats, say)
        tuned = _tune(folder, trials, say)
        table = _profiled_table(folder)
        loop = _loop(both, folder, scenario, tuned, table, texts, repeats, say)
    advice = load_artifact(tuned).advice
    outcome = Outcome(tuple(rows), tuple(loop), calibrated, advice)
    frame(outcome.cells).to_csv(folder / "cells.csv", index=False)
    frame(outcome.loop).to_csv(folder / "loop.csv", index=False)
    return outcome


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table: measured, predicted and errors."""
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
            for row in rows
        ]
    )


def _calibrate(both: Servers, folder: Path, workload: dict[str, Any], texts: dict[str, list[str]]) -> Calibrated:
    traffic = _workload(workload)
    out = folder / "run.parquet"
    with recording(both.steered, out):
        for policy, clients in CALIBRATION:
            both.follow(artifact(policy, GUESS))
            measure(both.steered, traffic.with_clients(clients), REQUESTS, texts)
    seen = []
    for clients in PLAIN_CALIBRATION:
        _, loaded = measure(both.plain, traffic.with_clients(clients), REQUESTS, texts)
        seen.append(plain.steps(loaded.requests, clients))
    return calibrate([out], pd.concat(seen, ignore_index=True), "this machine's CPU", 1, CLIENTS)


def _workload(content: dict[str, Any]) -> Workload:
    return Workload.model_validate(content)


def _scenario(folder: Path, workload: dict[str, Any]) -> Scenario:
    """The demo on the calibrated profile, as the file that the tuner is given too."""
    content = {
        "name": "sim2real",
        "profile": "profile.json",
        "workload": workload,
        "loads": list(CLIENTS),
        "run": {"requests": REQUESTS + 24, "warmup_requests": 24},
    }
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load(str(path))


def _requests(cell: Cell) -> int:
    """So many that a cell takes about as long as any other."""
    return {CLIENTS[0]: POOL, CLIENTS[-1]: 2 * REQUESTS, None: POOL}.get(cell.clients, REQUESTS)


def _cells(
    both: Servers,
    folder: Path,
    scenario: Scenario,
    belief: SpsAdditiveTable,
    texts: dict[str, list[str]],
    repeats: int,
    say: Say,
) -> list[Row]:
    """Every cell once a repeat, so that what drifts on this machine meets all alike."""
    runs: dict[Cell, list[Measured]] = {cell: [] for cell in CELLS}
    out = folder / "cells.parquet"
    with recording(both.steered, out):
        for repeat in range(repeats):
            for cell in CELLS:
                say(f"measuring {cell.policy} at {cell.load}, {repeat + 1} of {repeats}")
                policy = POLICIES[cell.policy]
                if policy is not None:
                    both.follow(artifact(policy, belief))
                server = both.plain if policy is None else both.steered
                found, _ = measure(server, at(scenario.workload, cell), _requests(cell), texts)
                runs[cell].append(found)
    rows = []
    for cell, measured in runs.items():
        policy = POLICIES[cell.policy]
        said = predicted(scenario, cell, policy, _requests(cell))
        rows.append(_row(cell.policy, cell.load, measured, None if policy is None else out, said))
    return rows


def _row(name: str, load: str, runs: Sequence[Measured], recorded: Path | None, said: Figures) -> Row:
    return Row(name, load, figures(runs, recorded), said, spread([run.throughput_tok_s for run in runs]))


def _tune(folder: Path, trials: int, say: Say) -> Path:
    """Runs ``dspark tune`` on the calibrated profile, with the flags that the servers have."""
    say("tuning on the calibrated profile")
    pins = {"gamma": GAMMA, "max_running_requests": RUNNING, "verify_mode": "compact", "chunked_prefill_size": 4096}
    words = [word for name, value in pins.items() for word in ("--pin", f"{name}={value}")]
    command = [sys.executable, "-m", "dspark_tuning.cli", "tune", str(folder / "scenario.yaml"), *words]
    command += ["--out", str(folder / "tuned"), "--trials", str(trials), "--replications", "6"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "tuned" / "policy.json"


def _profiled_table(folder: Path) -> Path:
    """The recorded steps through the fit of SGLang's own profiler (``sglang.benchmark.dspark_sps_profiler fit``)."""
    steps = recorded_cells.decodes(read([folder / "run.parquet"]))
    drafted = steps[steps["drafted"]]
    groups = drafted.groupby(["requests", "tokens"])["step_s"].agg(["median", "size"]).query("size >= 5").reset_index()
    rounds = [
        {
            "batch_size_per_rank": int(row["requests"]),
            "batch_tokens": int(row["tokens"]),
            "steps_per_sec": 1 / float(row["median"]),
            "frac": 1.0,
        }
        for row in groups.to_dict("records")
    ]
    out = folder / "sps_table.json"
    (folder / "sps_table.rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds))
    command = [sys.executable, "-m", "sglang.benchmark.dspark_sps_profiler", "fit", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out


def _loop(
    both: Servers,
    folder: Path,
    scenario: Scenario,
    tuned: Path,
    table: Path,
    texts: dict[str, list[str]],
    repeats: int,
    say: Say,
) -> list[Row]:
    """The tuned policy beside what there is without it, on the real servers and as the simulator has them."""
    made = load_artifact(tuned)
    belief = _table(table)
    server = baselines.compact(scenario.server)
    ways: dict[str, Arm] = {
        PLAIN: baselines.plain(scenario),
        VERIFY_ALL: Arm(VERIFY_ALL, server, Fixed(length=GAMMA)),
        BUDGET: Arm(BUDGET, server, Argmax(), belief, stock=True),
        TUNED: baselines.plain(scenario)
        if made.serve == "plain"
        else Arm(TUNED, server, made.policy, made.cost_belief),
    }
    runs: dict[tuple[str, int], list[Measured]] = {(way, clients): [] for clients in CLIENTS for way in ways}
    out = folder / "loop.parquet"
    with budget_server(folder, table) as budget, recording(both.steered, out):
        for repeat in range(repeats):
            for way, clients in runs:
                say(f"measuring {way} at {clients}, {repeat + 1} of {repeats}")
                asked = {PLAIN: both.plain, BUDGET: budget}.get(way, both.steered)
                if way == VERIFY_ALL:
                    both.follow(artifact(Fixed(length=GAMMA), belief))
                elif way == TUNED and made.serve == "plain":
                    asked = both.plain
                elif way == TUNED:
                    both.follow(made)
                cell = Cell(way, clients)
                found, _ = measure(asked, at(scenario.workload, cell), _requests(cell), texts)
                runs[way, clients].append(found)
    rows = []
    for (way, clients), measured in runs.items():
        cell = Cell(way, clients)
        steered = way == VERIFY_ALL or (way == TUNED and made.serve != "plain")
        said = predicted_arm(scenario, cell, ways[way], _requests(cell))
        rows.append(_row(way, cell.load, measured, out if steered else None, said))
    return rows


def _table(path: Path) -> SpsAdditiveTable:
    """SGLang's table. Its profiler rounds tokens to multiples of 64, the lowest to 0, which stands for 1."""
    content = json.loads(path.read_text())
    content["m_probes"] = [max(probe, 1) for probe in content["m_probes"]]
    return SpsAdditiveTable.model_validate(content)
