"""Tuning: the same result for any number of workers, and no policy that loses to a baseline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import optuna
import pytest

from dspark_simulator.deployment import Live, Memory
from dspark_simulator.scenario import Scenario, load, seeds
from dspark_simulator.server import Server
from dspark_tuning.search import baselines
from dspark_tuning.search.evaluation import Cell, evaluate, executor, grid
from dspark_tuning.search.search import PARAMS, SearchPlan, open_study, stored_trials
from dspark_tuning.search.space import Space
from dspark_tuning.search.tune import Options, Outcome, tune
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Argmax, SpsAdditiveTable, Threshold
from sglang_dspark.policy.artifact import dumps
from sglang_dspark.shapes.kv_pool import FlagCosts
from tests.tuning.interrupted_lock import interrupt_lock

LOADS = (2.0, 24.0)
# Of a process that imports, compiles and searches on a machine that others use.
DEADLINE_S = 600
SMALL = {"trials": 12, "batch": 6, "replications": 6}


def small() -> Scenario:
    """A packaged scenario at two loads."""
    return load("b300-v4flash").model_copy(update={"loads": LOADS})


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return small()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the search behind ``outcome``."""
    return tmp_path_factory.mktemp("once")


@pytest.fixture(scope="module")
def outcome(scenario: Scenario, folder: Path) -> Outcome:
    return tune(scenario, Options(folder, **SMALL))


def test_a_run_on_two_processes_ends_in_the_same_policy(scenario: Scenario, outcome: Outcome, tmp_path: Path) -> None:
    with executor(2) as pool:
        other = tune(scenario, Options(tmp_path, **SMALL), pool)
    assert dumps(other.artifact) == dumps(outcome.artifact)
    assert other.trials.to_csv() == outcome.trials.to_csv()
    assert other.rows.to_csv() == outcome.rows.to_csv()


def test_an_interrupt_leaves_no_pool_to_the_exit_of_the_interpreter(scenario: Scenario) -> None:
    before = threading.enumerate()
    with pytest.raises(KeyboardInterrupt), executor(2) as pool:
        assert pool is not None
        running = [
            pool.submit(evaluate, scenario, grid([baselines.plain(scenario)], LOADS, [1], 0.25)) for _ in range(20)
        ]
        running[0].result()
        raise KeyboardInterrupt
    assert threading.enumerate() == before
    assert running[-1].cancelled()


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["symlink", "rename", "unlink"])
def test_an_interrupt_within_a_write_of_the_journal_waits_for_its_end(
    scenario: Scenario, call: Literal["symlink", "rename", "unlink"], done: bool, tmp_path: Path
) -> None:
    space = Space(scenario, {})
    study = open_study(None, tmp_path, SearchPlan("throughput", 16, 16, 0, [1]), scenario, space)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_lock(patch, call, write=1, done=done)
        study.add_trial(optuna.trial.create_trial(value=1.0))
    assert stored_trials(None, tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["journal.log"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_folder_without_a_study_holds_no_trials(tmp_path: Path) -> None:
    assert stored_trials(None, tmp_path) == stored_trials(f"sqlite:///{tmp_path}/study.db", tmp_path) == 0
    assert not (tmp_path / "journal.log").exists()


SCRIPT = """
import sys
from pathlib import Path
from dspark_tuning.search.tune import Options, tune
from sglang_dspark.policy.artifact import dumps
from tests.tuning.test_tune import SMALL, small
outcome = tune(small(), Options(Path(sys.argv[1]), **SMALL))
Path(sys.argv[1], "policy.json").write_text(dumps(outcome.artifact))
"""
ROOT = Path(__file__).parents[2]


def test_a_run_killed_in_the_search_and_started_again_ends_in_the_same_policy(outcome: Outcome, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    journal = tmp_path / "journal.log"
    victim = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + DEADLINE_S
    # Two lines make the study, every trial adds one: some trials of the first batch are on disk.
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 5):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "policy.json").exists()
    subprocess.run(command, check=True, cwd=ROOT)
    assert (tmp_path / "policy.json").read_text() == dumps(outcome.artifact)


def test_a_run_that_stops_within_a_batch_resumes_with_the_rest(
    scenario: Scenario, outcome: Outcome, folder: Path, tmp_path: Path
) -> None:
    whole = _study(folder).get_trials()
    assert len(whole) == 12
    # What a killed run leaves: the first batch and two trials of the second.
    study = optuna.create_study(
        study_name="dspark", storage=_journal_of(tmp_path), directions=["maximize"], load_if_exists=True
    )
    study.set_user_attr("asked", _study(folder).user_attrs["asked"])
    study.add_trials(whole[:8])
    resumed = tune(scenario, Options(tmp_path, **SMALL))
    assert dumps(resumed.artifact) == dumps(outcome.artifact)


def test_another_search_is_not_continued_by_mistake(scenario: Scenario, outcome: Outcome, folder: Path) -> None:
    with pytest.raises(InputError, match="another scenario, objective, seed"):
        tune(scenario, Options(folder, objective="goodput", **SMALL))


def test_an_optuna_storage_url_holds_the_study(scenario: Scenario, outcome: Outcome, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    assert dumps(tune(scenario, Options(tmp_path, storage=url, **SMALL)).artifact) == dumps(outcome.artifact)
    assert len(optuna.load_study(study_name="dspark", storage=url).trials) == 12
    with pytest.raises(InputError, match="cannot be opened"):
        tune(scenario, Options(tmp_path, storage="nonsense://x", **SMALL))


def test_a_dask_cluster_gives_the_same_rows(scenario: Scenario) -> None:
    distributed = pytest.importorskip("distributed")
    cells = grid([baselines.default(scenario), baselines.plain(scenario)], LOADS, [1, 2], 0.25)
    here = evaluate(scenario, cells)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        executor(1, cluster.scheduler_address) as pool,
    ):
        assert evaluate(scenario, cells, pool).to_csv() == here.to_csv()


def test_the_plain_server_has_the_limits_that_the_scenario_states(scenario: Scenario) -> None:
    def plain(**stated: int) -> Server:
        return baselines.plain(scenario.model_copy(update={"server": Server(**stated)})).server

    assert (plain().max_running_requests, plain().capture_requests) == (1024, 512)
    assert plain(capture_requests=32, max_running_requests=48, chunked_prefill_size=4096) == Server(
        speculative=False, capture_requests=32, max_running_requests=48, chunked_prefill_size=4096
    )
    # The same server, whether the scenario or the arm turns speculation off.
    off = Server(speculative=False, capture_requests=32)
    assert plain(capture_requests=32) == off == baselines.default(scenario.model_copy(update={"server": off})).server


def test_seed_sets_are_disjoint() -> None:
    sets = [set(seeds(purpose, seed, 200)) for seed in range(3) for purpose in ("search", "select", "report")]
    assert len(set.union(*sets)) == sum(len(s) for s in sets)


def test_report_and_search_never_share_a_seed(outcome: Outcome) -> None:
    named = outcome.artifact.provenance.seeds
    assert set(named["report"]) == set(outcome.rows["seed"])
    assert not set(named["report"]) & (set(named["search"]) | set(named["select"]))
    assert not set(named["search"]) & set(named["select"])


def test_all_arms_see_the_same_truths(outcome: Outcome, scenario: Scenario) -> None:
    by_seed = outcome.rows.groupby("seed")[["overhead_s", "slope"]].nunique()
    assert (by_seed == 1).all().all()
    low, high = scenario.live.overhead_s
    assert outcome.rows["overhead_s"].between(low, high).all()
    assert outcome.rows["overhead_s"].nunique() == 6


def test_every_baseline_is_in_the_evidence(outcome: Outcome) -> None:
    names = {row.arm for row in outcome.artifact.evidence}
    expected = {
        baselines.PLAIN,
        baselines.DEFAULT,
        baselines.TUNED_FLAGS,
        baselines.STATIC,
        baselines.GREEDY,
        baselines.ARGMAX,
        baselines.ALIGNED,
    }
    expected |= {baselines.OWN_FLAGS, baselines.ALIGNED_OWN_FLAGS, baselines.START}
    assert (
        expected | {baselines.ALIGNED_DEFAULT_FLAGS, baselines.ORACLE} | {baselines.fixed_name(k) for k in range(1, 6)}
        <= names
    )


def test_trials_left_behind_on_a_rung_are_pruned(outcome: Outcome) -> None:
    trials = outcome.trials
    assert set(trials["state"]) == {"complete", "pruned"}
    first_rung = trials.iloc[:6]
    kept = first_rung[first_rung["rung_1"].notna()]
    assert len(kept) == 2 and kept["rung_0"].min() >= first_rung["rung_0"].nlargest(2).min()


def test_pins_hold(scenario: Scenario, tmp_path: Path) -> None:
    pins = {"family": "argmax", "gamma": 5, "max_running_requests": 40}
    found = tune(scenario, Options(tmp_path, pins=pins, **SMALL))
    assert set(found.trials["family"]) == {"argmax"} and set(found.trials["gamma"]) == {5}
    assert found.artifact.provenance.search_space["gamma"] == 5


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({"gama": 5}, r"pin gama: no such parameter; choose from"),
        ({"gamma": 9}, r"pin gamma: 9 is not valid; give \{'low': 1, 'high': 5\}"),
        ({"gamma": 2.5}, r"pin gamma: 2.5 is not valid"),
        ({"family": "magic"}, r"pin family: 'magic' is not valid"),
        ({"max_running_requests": -1}, r"pin max_running_requests: -1 is not valid"),
        ({"max_running_requests": 5000}, r"pin: max_running_requests: 5000 is not valid; .*1024"),
        ({"max_running_requests": True}, r"pin max_running_requests: True is not valid"),
    ],
)
def test_a_pin_that_cannot_be_is_refused(scenario: Scenario, pins: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Space(scenario, pins)


def test_argmax_baselines_hold_the_searchs_belief(scenario: Scenario) -> None:
    space = Space(scenario, {})
    for arm in baselines.baselines(scenario, scenario.server, 0.3):
        if isinstance(arm.policy, Argmax):
            assert arm.belief == space.beliefs[arm.server.gamma]


def test_where_drafting_cannot_pay_the_plain_server_is_written(scenario: Scenario, tmp_path: Path) -> None:
    # A drafter that takes as long as ten steps of the target.
    cost = scenario.cost.model_dump()
    cost["curve"]["draft"] = {"requests": [1, 1024], "seconds": [0.2, 0.2]}
    slow = Scenario.model_validate(scenario.model_dump() | {"cost": cost})
    # Only candidates that draft: the search itself must not find the way out.
    found = tune(slow, Options(tmp_path, pins={"off_above": 1024, "family": "threshold"}, **SMALL))
    assert found.winner.name == baselines.PLAIN
    assert found.artifact.serve == "plain" and found.artifact.policy.family == "none"
    assert found.artifact.advice.startswith("Serve without speculation")


def test_an_unmodified_server_takes_the_belief_that_was_tuned(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = scenario.model_copy(update={"live": Live(overhead_s=(0.012, 0.013)), "loads": (64.0,)})
    # The last of what is to replace something does.
    monkeypatch.setattr("dspark_tuning.search.tune.selected", lambda rows, objective, *groups: groups[-1][-1])
    found = tune(late, Options(tmp_path, pins={"family": "argmax", "overhead_s": 0.0125}, **SMALL))
    stock = found.stock
    assert stock.name == baselines.STOCK and stock.stock and stock.policy == Argmax(fill=True)
    assert stock.server.verify_mode == "compact"
    assert isinstance(stock.belief, SpsAdditiveTable)
    assert stock.belief.bias_seconds > baselines.profiled_belief(late, stock.server.gamma).bias_seconds
    assert found.winner.name == baselines.TUNED and found.winner.belief == stock.belief
    assert {baselines.STOCK, baselines.TUNED} <= set(found.rows["arm"])


def test_candidates_are_what_their_parameters_say(scenario: Scenario) -> None:
    space = Space(scenario, {})
    for start in space.starts():
        arm = space.arm("x", start)
        assert arm.server.max_running_requests == start["max_running_requests"]
        if isinstance(arm.policy, Threshold):
            assert arm.policy.theta == tuple(start[f"theta_{knot}"] for knot in arm.policy.running)


def test_cells_come_back_in_order(scenario: Scenario) -> None:
    cells = [Cell(baselines.default(scenario), load, seed, 0.25) for seed in (5, 3) for load in (24.0, 2.0)]
    rows = evaluate(scenario, cells)
    assert list(zip(rows["load"], rows["seed"], strict=True)) == [(24.0, 5), (2.0, 5), (24.0, 3), (2.0, 3)]


def _journal_of(folder: Path) -> optuna.storages.JournalStorage:
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))


def _study(folder: Path) -> optuna.Study:
    study = optuna.load_study(study_name="dspark", storage=_journal_of(folder))
    assert all(PARAMS in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    return study


@pytest.fixture
def cramped(scenario: Scenario) -> Scenario:
    """A pool that the largest sizes of the search would take up."""
    costs = FlagCosts(token_bytes=1e6, slot_bytes=3e7)
    memory = Memory(kv_tokens=12_000, kv_tokens_without_draft=12_000, costs=costs)
    return scenario.model_copy(update={"memory": memory.known(scenario.server, None)})


def test_flags_that_leave_no_pool_are_not_proposed(cramped: Scenario) -> None:
    space = Space(cramped, {"gamma": 3})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    asked = [space.suggest(study.ask()) for _ in range(60)]
    for params in (*space.starts(), *asked):
        assert cramped.memory.tokens(space.arm("a", params).server) > 8
    # The largest running limit fits with a small chunk, and the largest chunk with few slots.
    assert {params["max_running_requests"] for params in asked} >= {48, 512}
    assert {params["chunked_prefill_size"] for params in asked} == {2048, 4096, 8192, 16384}
    assert space.starts()[0]["max_running_requests"] == 512 and space.starts()[0]["chunked_prefill_size"] < 16384


def test_a_pin_that_leaves_no_pool_is_refused(cramped: Scenario) -> None:
    with pytest.raises(InputError, match=r"chunked_prefill_size 65536, .* lower one of them"):
        Space(cramped, {"chunked_prefill_size": 65536})


def test_whole_blocks_without_their_acceptances_are_only_pinned(scenario: Scenario) -> None:
    assert Space(scenario, {}).flags()["verify_mode"] == ("compact",)
    assert Space(scenario, {"verify_mode": "cap-accept"}).flags()["verify_mode"] == ("cap-accept",)
