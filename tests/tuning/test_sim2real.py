"""The arithmetic of the experiment; tests/live has what it is made of on a real server."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from dspark_simulator.scenario import load
from dspark_tuning.measuring.recording.schema import write

pytest.importorskip("torch")

from dspark_tuning.measuring.sim2real import experiment, servers
from dspark_tuning.measuring.sim2real.cells import CALIBRATION, CLIENTS, LOADS, POLICIES, Cell
from dspark_tuning.measuring.sim2real.experiment import CellResult, frame
from dspark_tuning.measuring.sim2real.measure import Measured, figures, lengths
from dspark_tuning.measuring.sim2real.predict import CellFigures, spread
from dspark_tuning.reporting import sim2real
from sglang_dspark.policy import Fixed
from sglang_dspark.policy.artifact import save, untuned
from tests.tuning.recorded import about, steps
from tests.tuning.test_calibrate import CLASSES, drafter, linear


def row(name: str, measured: float, predicted: float, load: str = "4", apart: float = 0.02) -> CellResult:
    return CellResult(name, load, CellFigures(measured, 0.01, 2.0, 3.0), CellFigures(predicted, 0.011, 2.0, 3.0), apart)


def test_no_cell_was_calibrated_on() -> None:
    # As ``experiment.run`` measures them: every mode at every load.
    cells = [Cell(name, load) for load in LOADS for name in POLICIES]
    assert len(cells) >= 12 and {cell.clients for cell in cells} == {*CLIENTS, None}
    seen = {(policy.model_dump_json(), clients) for policy, clients in CALIBRATION}
    for cell in cells:
        policy = POLICIES[cell.policy]
        assert policy is None or (policy.model_dump_json(), cell.clients) not in seen


def test_errors_and_spread() -> None:
    assert row("a", 100.0, 95.0).error == pytest.approx(-0.05) and row("a", 1, 1).tpot_error == pytest.approx(0.1)
    assert spread([90.0, 100.0, 110.0]) == pytest.approx(0.1) and spread([5.0]) == 0.0
    told = frame([row("a", 100.0, 95.0)]).to_dict("records")[0]
    assert told["measured_throughput_tok_s"] == 100.0 and told["error"] == pytest.approx(-0.05)


def test_order_counts_pairs_that_differ_by_more_than_their_spread() -> None:
    found = [row("a", 100.0, 100.0), row("b", 103.0, 90.0), row("c", 150.0, 140.0), row("d", 80.0, 120.0)]
    order = sim2real.Order([*found, row("a", 1000.0, 1.0, load="16")])
    # a and b are too close to tell; c is above both, as predicted; d is below all, and predicted above a and b.
    assert (order.right, order.pairs) == (3, 5)


def test_gains_are_of_the_tuned_over_the_others() -> None:
    (line,) = sim2real.gains([row("old", 100.0, 100.0), row("tuned", 120.0, 110.0)], "tuned")
    assert "tuned over old" in line and "promised +10.0%" in line and "measured +20.0%" in line


def test_lengths_are_those_of_the_time_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    table = steps(drafter(), linear, [(4, 2), (4, 5)], 60)
    write(path, table, about(classes=CLASSES))
    ended = table["ended_s"].to_pylist()
    assert lengths(path, [(0.0, ended[59])])[1] == 2.0 and lengths(path, [(ended[60], ended[-1])])[1] == 5.0
    assert lengths(path, [(ended[-1] + 1, ended[-1] + 2)]) == (1.0, 0.0)
    runs = [Measured(value, value / 1000, 0.0, ended[59]) for value in (90.0, 120.0, 100.0)]
    middle = figures(runs, path)
    assert (middle.throughput_tok_s, middle.tpot_s, middle.verify_length) == (100.0, 0.1, 2.0)


def test_lengths_of_a_server_that_does_not_record_are_the_clients() -> None:
    runs = [
        Measured(90.0, 0.1, 0.0, 1.0, length, verified) for length, verified in ((2.0, 5.0), (3.0, 7.0), (2.5, 6.0))
    ]
    middle = figures(runs, None)
    assert (middle.accepted_length, middle.verify_length) == (2.5, 6.0)
    unreported = figures([run._replace(verify_length=math.nan) for run in runs], None)
    assert math.isnan(unreported.verify_length)
    cell = CellResult("a", "4", unreported, middle, 0.0)
    assert sim2real.cells("", [cell]).rows[0][-4:] == ["2.50", "2.50", "-", "6.00"]


@pytest.mark.parametrize("serve", ["speculative", "plain"])
def test_a_tuned_policy_is_measured_on_a_server_with_its_block_and_flags(
    serve: Literal["speculative", "plain"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tuner may choose a baseline of another block than the calibrated server's, which that server refuses."""
    started: dict[str, tuple[dict[str, str], dict[str, str]]] = {}

    def start(log: Path, flags: dict[str, str], environment: dict[str, str]) -> object:
        started[log.stem] = flags, environment
        return nullcontext(log.stem)

    monkeypatch.setattr(servers, "ServerProcess", start)
    scenario = load("b300-v4flash")
    belief = servers.GUESS
    fixed = untuned(Fixed(length=3), belief, 3, classes=tuple(c.name for c in scenario.workload.classes))
    flags = {"--speculative-dspark-block-size": "3", "--max-running-requests": "8"}
    tuned = fixed.model_copy(
        update={"serve": serve, "server_flags": flags, "environment": {"SGLANG_RAGGED_VERIFY_MODE": "static"}}
    )
    (tmp_path / experiment.TUNED_POLICY.parent).mkdir()
    save(tuned, tmp_path / experiment.TUNED_POLICY)
    (tmp_path / "table.json").write_text(belief.model_dump_json(exclude_none=True))
    session = object.__new__(experiment.Session)
    session._folder, session.scenario = tmp_path, scenario
    session._both = SimpleNamespace(plain="plain", steered=SimpleNamespace(server="steered"))  # type: ignore
    with session.loop_modes(tuned, tmp_path / "table.json") as modes:
        chosen = modes[-1]
    assert chosen.name == experiment.TUNED and chosen.artifact is None
    if serve == "plain":
        assert chosen.server == "plain" and not chosen.arm.server.speculative and set(started) == {"budget"}
        return
    got, environment = started["tuned"]
    assert chosen.server == "tuned" and flags.items() <= got.items() and environment == tuned.environment
    assert Path(got["--speculative-dspark-policy"]).read_text() == (tmp_path / experiment.TUNED_POLICY).read_text()
    server = chosen.arm.server
    assert (server.gamma, server.max_running_requests, server.verify_mode) == (3, 8, "static")


def test_repeats_are_interleaved_and_policies_brought_into_force(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []
    session = object.__new__(experiment.Session)
    session._repeats, session._texts, session._say = 2, {}, lambda text: None
    session._both = SimpleNamespace(steered=SimpleNamespace(server="steered", use=log.append))  # type: ignore
    session.scenario = SimpleNamespace(workload=None)  # type: ignore[assignment]
    measured = Measured(100.0, 0.02, 0.0, 1.0)
    monkeypatch.setattr(experiment, "at", lambda workload, cell: cell.clients)
    monkeypatch.setattr(experiment, "measure", lambda server, at, *rest: (log.append((server, at)) or measured, None))
    monkeypatch.setattr(experiment, "predicted", lambda *arguments: CellFigures(90.0, 0.02, 2.0, 3.0))
    monkeypatch.setattr(experiment, "recording", lambda server, out: nullcontext(log.append((server, out))))
    monkeypatch.setattr(
        experiment, "figures", lambda runs, out: CellFigures(100.0 * len(runs), 0.02, 2.0, float(bool(out)))
    )
    modes = [experiment.ServingMode("plain", "plain", None), experiment.ServingMode("ours", "steered", None, "policy")]  # type: ignore
    rows = session.compare(modes, (1, None), Path("out"))
    once = [("plain", 1), "policy", ("steered", 1), ("plain", None), "policy", ("steered", None)]
    assert log == [("steered", Path("out")), *once, *once]
    assert [(row.name, row.load, row.measured.verify_length) for row in rows] == [
        ("plain", "1", 0.0),
        ("ours", "1", 1.0),
        ("plain", "4 1/s", 0.0),
        ("ours", "4 1/s", 1.0),
    ]
    assert {row.measured.throughput_tok_s for row in rows} == {200.0} and rows[0].error == pytest.approx(-0.55)
