"""Calibration against the models that the recordings were made from, and against SGLang and SciPy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.optimize import nnls

from dspark_simulator import profile as profiles
from dspark_simulator.acceptance_model import AcceptanceModel, packaged
from dspark_simulator.costs.numeric import draft_s, host_s, prefill_s, verify_s
from dspark_simulator.deployment import Truth
from dspark_simulator.scenario import Run, Scenario, load
from dspark_simulator.simulation import Arm, simulate
from dspark_tuning.measuring.calibrate import acceptance_fit, confidence, cost, coverage, nonnegative, step_cells
from dspark_tuning.measuring.calibrate.calibration import Calibrated, calibrate
from dspark_tuning.measuring.calibrate.rounds import Rounds, rounds
from dspark_tuning.measuring.calibrate.timelines import timelines
from dspark_tuning.measuring.recording.schema import Record, read, write
from dspark_tuning.reporting import calibration
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Fixed, sglang_tiers
from sglang_dspark.serving.step_schema import RECORDING
from tests.tuning.command import dspark
from tests.tuning.recorded import GAMMA, about, prefills, steps
from tests.tuning.report_page import Page, check_nothing_is_loaded, check_readable

CLASSES = ("chat", "math")


def drafter() -> AcceptanceModel:
    """Two kinds of text, the head too sure of itself."""
    domains = packaged().domains
    chosen = {name: domains[domain] for name, domain in zip(CLASSES, ("mt-bench", "math500"), strict=True)}
    return packaged().model_copy(update={"domains": chosen, "persistence_tokens": 32})


def linear(requests: int, tokens: int, drafted: bool, context: int) -> float:
    """A step without graphs, seconds."""
    return 0.004 + 1e-4 * requests + drafted * (0.003 + 2e-4 * requests) + 5e-5 * tokens + 1e-7 * context


def prompt(requests: int, tokens: int) -> float:
    return 0.004 + 1e-4 * requests + 0.002 + 3e-5 * tokens


LOADS = [(2, -1), (24, -1), (2, 1), (24, 1), (24, 4), (2, 7), (12, 7), (24, 7), (24, 7), (24, 7)]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "run.parquet"
    table = pa.concat_tables(
        [steps(drafter(), linear, LOADS, 250, noise=0.03), prefills(prompt, [32, 64, 256, 1024], 20)]
    )
    write(path, table, about(classes=CLASSES))
    return path


@pytest.fixture(scope="module")
def found(recording: Path) -> Calibrated:
    return calibrate([recording], loads=(2, 8, 24))


# --- least squares


@given(st.integers(1, 8), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_wide_loss_is_nonnegative_least_squares_of_relative_errors(columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(20, columns))
    target = rng.uniform(0.5, 2.0, size=20)
    wanted, norm = nnls(design / target[:, None], np.ones(20))
    solved = nonnegative.robust(design, target, np.ones(20), width=1e9)
    assert (solved >= 0).all()
    assert np.linalg.norm(design @ solved / target - 1) == pytest.approx(norm, rel=1e-9, abs=1e-12)
    assert solved == pytest.approx(wanted, abs=1e-6)


def test_an_outlier_has_little_weight() -> None:
    target = np.array([1.0] * 10 + [0.25])
    solved = nonnegative.robust(np.ones((11, 1)), target, np.ones(11))
    squares, _ = nnls(1 / target[:, None], np.ones(11))
    assert solved[0] == pytest.approx(1.0, abs=0.06) and squares[0] < 0.6


def test_equal_columns_and_columns_of_zeros_are_solved() -> None:
    design = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [3.0, 3.0, 0.0]])
    solved = nonnegative.robust(design, np.array([2.0, 4.0, 6.0]), np.ones(3))
    assert design @ solved == pytest.approx([2.0, 4.0, 6.0])


# --- step costs


def test_step_times_are_recovered(found: Calibrated) -> None:
    record = found.profile.cost.tabulate()
    for requests, length in ((2, 0), (8, 3), (24, 7), (16, 5)):
        tokens, context = requests * (length + 1), requests * 100
        told = (
            host_s(record, requests, True)
            + draft_s(record, requests)
            + verify_s(record, tokens, True, context, requests)
        )
        assert told == pytest.approx(linear(requests, tokens, True, context), rel=0.03)
        rest = host_s(record, requests, True) + verify_s(record, requests, True, context, requests)
        assert rest == pytest.approx(linear(requests, requests, False, context), rel=0.04)
    for tokens in (32, 100, 1024):
        told = host_s(record, 1, True) + prefill_s(record, tokens, 0.0)
        assert told == pytest.approx(prompt(1, tokens), rel=0.03)


def test_held_out_errors_are_the_noise(found: Calibrated) -> None:
    by_part = {error.part: error for error in found.cost.errors}
    assert set(by_part) == {"step with a draft", "step without a draft", "prefill"}
    # The median of |normal| is 0.67 of its deviation of 3 %.
    assert by_part["step with a draft"].median == pytest.approx(0.02, abs=0.006)
    assert by_part["step with a draft"].steps == pytest.approx(8 * 250 / 2, abs=60)


@pytest.mark.parametrize("tell", [True, False])
def test_captured_sizes_are_found(tmp_path: Path, tell: bool) -> None:
    tiers = sglang_tiers(24, GAMMA)

    def pad(tokens: int) -> int:
        return int(tiers[np.searchsorted(tiers, tokens)])

    def stairs(requests: int, tokens: int, drafted: bool, context: int) -> float:
        return 0.002 + drafted * 0.001 + 1e-4 * tokens

    loads = [(requests, length) for requests in (1, 3, 9, 17, 24) for length in (-1, 1, 2, 4, 7)]
    path = tmp_path / "run.parquet"
    write(path, steps(drafter(), stairs, loads, 40, noise=0.01, tiers=pad, tell_tiers=tell), about(classes=CLASSES))
    made = calibrate([path])
    assert made.profile.server.capture_requests == 24
    record = made.profile.cost.tabulate()
    for tokens in (24, 72, 192):
        told = host_s(record, 3, True) + draft_s(record, 3) + verify_s(record, tokens, True, 0, 3)
        assert told == pytest.approx(stairs(3, tokens, True, 0), rel=0.03)


def test_a_server_that_captures_nothing_is_found_out(found: Calibrated) -> None:
    assert found.profile.server.capture_requests == 0


def test_what_a_recording_cannot_tell_is_said(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    write(path, steps(drafter(), linear, [(8, 7)], 120), about(classes=CLASSES))
    said = " ".join(calibrate([path], loads=(64,)).profile.warnings)
    for part in (
        "No step without a draft",
        "request verifies 8 tokens",
        "step has 8 requests",
        "No prefill was recorded",
        "No server without speculation",
        "No steps near 64 running requests",
    ):
        assert part in said


def test_a_server_without_speculation_gives_its_own_overhead(recording: Path) -> None:
    record = read([recording])
    decoded, prefilled = step_cells.decodes(record), step_cells.prefills(record)
    plain = decoded.head(0)[["requests", "context", "step_s"]].copy()
    for requests in (2, 16):
        plain.loc[len(plain)] = [requests, 0.0, linear(requests, requests, False, 0) - 0.001]
    made = cost.fit(decoded, prefilled, plain, GAMMA).cost
    assert made.plain is not None
    told = made.plain.overhead_s + 16 * made.plain.request_s + float(verify_s(made.tabulate(), 16, True, 0, 16))
    assert told == pytest.approx(linear(16, 16, False, 0) - 0.001, rel=0.03)


# --- acceptance


def test_acceptance_is_recovered_through_the_simulator(found: Calibrated) -> None:
    """The fitted drafter, simulated, accepts as much as the one that was recorded, at every verify length and class."""
    for name in CLASSES:
        for length in (2, 7):
            lengths = [_simulated(model, name, length) for model in (drafter(), found.profile.acceptance)]
            assert lengths[1] == pytest.approx(lengths[0], rel=0.03)


def _simulated(model: AcceptanceModel, name: str, length: int) -> float:
    base = load("b300-v4flash").model_dump()
    klass = {
        "name": name,
        "domain": name,
        "prompt": {"kind": "fixed", "tokens": 16},
        "output": {"kind": "fixed", "tokens": 96},
        "slo": {"ttft_s": 1.0, "tpot_s": 1.0},
    }
    workload = {"arrivals": {"kind": "closed", "clients": 8}, "classes": [klass]}
    scenario = Scenario.model_validate(
        base
        | {
            "acceptance": model.model_dump(),
            "drafter_quality": 0.0,
            "drafter_gamma": 7,
            "workload": workload,
            "loads": [8],
        }
    ).model_copy(update={"run": Run(requests=2500, warmup_requests=0, drain=True)})
    server = scenario.server.model_copy(update={"verify_mode": "compact", "gamma": 7})
    return simulate(scenario, Arm("f", server, Fixed(length=length)), truth=Truth()).accepted_length


def test_conditional_acceptance_is_what_was_recorded(found: Calibrated) -> None:
    fit = found.acceptance
    assert fit is not None and fit.classes == CLASSES
    told = np.abs(fit.modelled - fit.measured)[fit.judged >= 300]
    assert told.size and told.max() < 0.03


def test_a_rare_class_borrows_ten_drafts_a_position() -> None:
    """Ten judged drafts of a class weigh as much as all classes together."""
    often, rare = 4000, 10
    kept = np.concatenate([np.arange(often) % 10 < 8, np.arange(rare) < 2])
    made = Rounds(
        CLASSES,
        slo_class=np.repeat([0, 1], [often, rare]),
        request=np.arange(often + rare),
        verified=np.ones(often + rare, np.int64),
        accepted=kept.astype(np.int64),
        logits=np.full((often + rare, 1), np.nan),
    )
    fit = acceptance_fit.fit(made, np.ones(1), "target", "drafter", "test")
    assert fit.measured[:, 0].tolist() == [0.8, 0.2]
    assert fit.modelled[1, 0] == pytest.approx((0.2 + kept.mean()) / 2, abs=0.005)


def test_a_position_with_few_rounds_borrows_a_quarter_of_that_for_its_head() -> None:
    """Against the minimum of the penalised likelihood, found without its derivatives: 2.5 rounds of the pooled head."""
    rng = np.random.default_rng(3)
    count, few = 3000, 12
    logits = rng.normal(0.5, 1.5, (count, 2))
    logits[few:, 1] = np.nan
    survived = np.stack([rng.random(count) < special.expit(0.8 * logits[:, 0] + 0.2), np.arange(count) % 4 > 0], 1)
    accepted = np.where(survived[:, 0], np.where(survived[:, 1], 2, 1), 0)
    made = Rounds(CLASSES[:1], np.zeros(count, np.int64), np.arange(count), np.full(count, 2), accepted, logits)
    slope, bias = acceptance_fit._head(made)

    def loss(found: NDArray[np.float64], x: NDArray[np.float64], happened: NDArray[np.bool_]) -> float:
        z = found[0] + found[1] * x
        return float(np.logaddexp(0, np.where(happened, -z, z)).sum())

    seen = made.reached & np.isfinite(logits)
    pooled = optimize.minimize(loss, [0.0, 1.0], (logits[seen], survived[seen]), "Nelder-Mead").x
    at = seen[:, 1]

    def drawn(found: NDArray[np.float64]) -> float:
        return loss(found, logits[at, 1], survived[at, 1]) + 1.25 * float(((found - pooled) ** 2).sum())

    found = optimize.minimize(drawn, pooled, method="Nelder-Mead").x
    assert (-bias[1] / slope[1], 1 / slope[1]) == pytest.approx(tuple(found), abs=0.01)


def test_rounds_that_were_cut_short_are_censored(tmp_path: Path) -> None:
    """At positions past the verify length nothing is known: not that drafts were refused."""
    path = tmp_path / "run.parquet"
    write(path, steps(drafter(), linear, [(8, 2)], 400), about(classes=CLASSES))
    made = calibrate([path])
    fit = made.acceptance
    assert fit is not None
    assert (fit.judged[:, 2:] == 0).all() and (fit.judged[:, :2] > 0).all()
    assert (fit.modelled[:, 2:] > 0.3).all()
    assert any("position 3 or later" in sentence for sentence in made.profile.warnings)


def test_without_lengths_the_packaged_drafter_stands_in(tmp_path: Path, recording: Path) -> None:
    table = read([recording]).steps.drop_columns(["run"])
    for name in ("rid", "slo_class", "verify_length", "accepted_length", "confidence"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.nulls(len(table), table.schema.field(name).type))
    path = tmp_path / "stock.parquet"
    write(path, table, about(source="sglang", partial=("Lengths and confidences are not recorded.",)))
    made = calibrate([path])
    assert made.profile.acceptance == packaged()
    assert made.acceptance is None and made.head is None
    said = " ".join(made.profile.warnings)
    assert "packaged drafter" in said and "Lengths and confidences are not recorded." in said


# --- confidence


def test_temperatures_are_those_of_sglangs_own_fit(recording: Path) -> None:
    torch = pytest.importorskip("torch")
    upstream = pytest.importorskip("sglang.benchmark.dspark_sts_fit")
    verified = rounds(read([recording]))
    whole = verified.take(verified.verified == GAMMA)
    made = confidence.calibrate(verified)
    assert made is not None and made.rounds == len(whole.verified)
    theirs = upstream.fit_sts_temperatures(
        logits=torch.from_numpy(whole.logits),
        prefix_mask=torch.from_numpy(whole.survived),
        grid=upstream.default_temperature_grid(),
    )
    assert made.temperatures == pytest.approx(theirs["temperatures"], rel=1e-6)


def test_temperatures_help_on_rounds_that_they_did_not_see(found: Calibrated) -> None:
    assert found.head is not None
    assert found.head.ece_after.mean() < found.head.ece_before.mean()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    score, happened = np.array([float(s) for s, _ in pairs]), np.array([h for _, h in pairs])
    told = confidence.auc(score, happened)
    yes, no = score[happened], score[~happened]
    if not len(yes) or not len(no):
        assert np.isnan(told)
    else:
        order = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
        assert told == pytest.approx(float(np.mean(order)))


# --- coverage


def test_plan_asks_for_what_is_missing_and_no_more(found: Calibrated) -> None:
    plan = coverage.plan(found.coverage)
    gaps = {(gap.requests, gap.length, gap.drafted) for gap in found.coverage.gaps}
    assert {(run.clients, run.length, run.drafted) for run in plan} <= gaps
    # 8 requests were recorded only as loads ended, and never with a part of a block or without a draft.
    assert any(run.clients == 8 for run in plan)
    assert not any(run.clients == 24 and run.length == 7 for run in plan)
    assert sum(run.seconds for run in plan) <= 300


@given(st.lists(st.integers(1, 1024), min_size=1, max_size=60, unique=True))
@settings(max_examples=20, deadline=None)
def test_a_plan_never_takes_more_than_five_minutes(loads: list[int]) -> None:
    record = Record(
        steps(drafter(), linear, [(2, 7)], 30).append_column("run", pa.array([0] * 30, pa.int32())), (about(),)
    )
    missing = coverage.plan(coverage.of(step_cells.decodes(record), GAMMA, loads))
    assert sum(run.seconds for run in missing) <= 300 and all(run.seconds >= 5 for run in missing)


# --- files


def test_profile_is_a_scenarios_deployment(tmp_path: Path, found: Calibrated) -> None:
    profiles.save(found.profile, tmp_path / "profile.json")
    assert profiles.load(tmp_path / "profile.json") == found.profile
    text = """
name: mine
profile: profile.json
gpus: 3
workload:
  arrivals: {kind: closed, clients: 4}
  classes:
    - {name: chat, domain: chat, prompt: {kind: fixed, tokens: 32}, output: {kind: fixed, tokens: 32},
       slo: {ttft_s: 1, tpot_s: 1}}
"""
    (tmp_path / "scenario.yaml").write_text(text)
    scenario = load(str(tmp_path / "scenario.yaml"))
    assert scenario.cost == found.profile.cost and scenario.acceptance == found.profile.acceptance
    assert scenario.gpus == 3, "what the scenario says itself wins"
    ran = dspark("simulate", tmp_path / "scenario.yaml", "--requests", 20, "--json").json()
    assert ran["result"]["throughput_tok_s"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version: '2' is not 1; calibrate again"),
        ({"colour": "red"}, "colour: unknown field"),
        ({"gpus": "many"}, "gpus: 'many' is not valid"),
    ],
)
def test_another_profile_is_refused(tmp_path: Path, found: Calibrated, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(json.loads(profiles.dumps(found.profile)) | change))
    with pytest.raises(InputError, match=f"{path}: {said}"):
        profiles.load(path)


def test_stock_sglang_takes_what_is_exported(tmp_path: Path, recording: Path) -> None:
    sps = pytest.importorskip("sglang.srt.speculative.dspark_components.dspark_sps")
    sts = pytest.importorskip("sglang.srt.speculative.dspark_components.dspark_sts")
    out, table, temperatures = (tmp_path / name for name in ("profile.json", "sps.json", "sts.json"))
    ran = dspark("calibrate", recording, "--out", out, "--sps-table", table, "--sts", temperatures, "--json").json()
    loaded = sps.load_sps_table_from_path(str(table))
    assert type(loaded).__name__ == "SpsAdditiveCostTable"
    assert loaded.step_time(num_reqs=24, budget=168) == pytest.approx(linear(24, 192, True, 0), rel=0.05)
    kept = sts.load_sts_calibration_from_path(str(temperatures))
    assert list(kept.temperatures) == pytest.approx(ran["sts_temperatures"])


def test_command_writes_the_same_bytes_again(tmp_path: Path, recording: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        ran = dspark(
            "calibrate",
            recording,
            "--out",
            folder / "p.json",
            "--report",
            folder / "r.html",
            "--loads",
            "2,64",
            "--plan",
        )
        assert ran.code == 0, ran.err
    assert (tmp_path / "a" / "p.json").read_bytes() == (tmp_path / "b" / "p.json").read_bytes()
    assert "dspark load --load 64" in ran.out
    first, again = ((tmp_path / name / "r.html").read_text().replace(f"/{name}/p.json", "") for name in ("a", "b"))
    assert first == again


def test_report_is_whole_and_tells_what_the_profile_tells(found: Calibrated, recording: Path) -> None:
    text = calibration.render(found, ["dspark calibrate <run>"])
    page = Page(text)
    check_nothing_is_loaded(text, page)
    check_readable(page)
    parts = ["asked", "answer", "steps", "acceptance", "confidence", "coverage", "recordings", "provenance"]
    assert [section["id"] for section in page.of("section")] == parts
    profile = json.loads(profiles.dumps(found.profile))
    errors = page.table("Errors on held-out steps")
    for part, told in profile["residuals"].items():
        if part in errors:
            assert errors[part] == [f"{told['steps']:,}", f"{told['median']:.1%}", f"{told['p90']:.1%}"]
    assert {"step with a draft", "step without a draft", "prefill"} < set(errors)
    temperatures = [cells[0] for cells in list(page.table("By position").values())[1:]]
    assert temperatures == [f"{t:.2f}" for t in profile["sts_temperatures"]]
    assert page.table("Recordings by their content")[recording.name] == [
        hashlib.sha256(recording.read_bytes()).hexdigest()
    ]
    assert all(warning in page.text for warning in profile["warnings"]) and profile["warnings"]
    assert "dspark calibrate <run>" in page.codes
    times = {(t["name"], t["yaxis"]): t["x"] for t in page.drawing("step-times")}
    drafted = found.decoded.loc[found.decoded["drafted"], "step_s"]
    assert times["measured", "y2"][49] == pytest.approx(1e3 * drafted.median())


def test_recordings_over_time() -> None:
    """Two ranks side by side, one of which prefills in the middle; each of their pools holds 1,000 tokens."""
    step = {"mode": "on", "drafted_tokens": 7, "queued": 3, "context_tokens": 100}
    decode = step | {"kind": "decode", "step_s": 2.0, "requests": 4, "verify_tokens": 12}
    prefill = {"kind": "prefill", "step_s": 4.0, "requests": 1, "mode": "on"}
    ours = [decode | {"ended_s": 2.0}, prefill | {"ended_s": 6.0}, decode | {"ended_s": 8.0, "verify_tokens": 4}]
    others = [decode | {"ended_s": 2.0 * step, "requests": 2, "verify_tokens": 2} for step in range(1, 5)]
    rows = [
        row | {"segment": rank, "step": i} for rank, part in enumerate((ours, others)) for i, row in enumerate(part)
    ]
    table = pa.Table.from_pylist(rows, RECORDING).append_column("run", pa.array([0] * len(rows), pa.int32()))
    (found,) = timelines(Record(table, (about(dp_size=2, max_total_num_tokens=1000),)))
    assert found.at_s[[0, -1]] == pytest.approx([0.05, 7.95])
    assert found.running == pytest.approx([6.0] * 80) and found.queued == pytest.approx([6.0] * 80)
    assert found.kv_share == pytest.approx([0.1] * 80)
    # 8 drafts of 6 requests, then none of 2, then none of 6.
    assert found.verify_length == pytest.approx([8 / 6] * 20 + [0.0] * 60)
    stock = table.set_column(RECORDING.get_field_index("queued"), "queued", pa.nulls(len(rows), pa.int32()))
    (found,) = timelines(Record(stock, (about(),)))
    assert np.isnan(found.queued).all() and found.running == pytest.approx([6.0] * 80)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.parquet"], "nothing.parquet: no such file"),
        (["{run}", "--loads", "4,many"], "--loads: '4,many' is not valid"),
        (["{run}", "--plain", "{run}"], "is not a load; give what `dspark load` wrote"),
        (["{run}", "--out", "{run}/profile.json"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(recording: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    words = [word.format(run=recording) for word in arguments]
    out = [] if "--out" in words else ["--out", tmp_path / "profile.json"]
    ran = dspark("calibrate", *words, *out)
    assert ran.code == 2 and said in ran.err and ran.err.count("\n") == 1
    assert not (tmp_path / "profile.json").exists()


def test_recordings_of_two_blocks_are_refused(tmp_path: Path, recording: Path) -> None:
    other = tmp_path / "other.parquet"
    write(other, read([recording]).steps.drop_columns(["run"]), about(gamma=5))
    ran = dspark("calibrate", recording, other, "--out", tmp_path / "profile.json")
    assert ran.code == 2 and "other.parquet: gamma: 5 differs from 7" in ran.err


def test_a_recording_without_times_is_refused(tmp_path: Path, recording: Path) -> None:
    table = read([recording]).steps.drop_columns(["run"])
    place = table.schema.get_field_index("step_s")
    table = table.set_column(place, table.schema.field("step_s"), pa.nulls(len(table), pa.float64()))
    path = tmp_path / "run.parquet"
    write(path, table, about(classes=CLASSES))
    ran = dspark("calibrate", path, "--out", tmp_path / "profile.json")
    assert ran.code == 2 and "no decode step has a time" in ran.err


# --- beside a scenario


def test_a_scenario_takes_the_recorded_step_times_and_nothing_else(recording: Path, tmp_path: Path) -> None:
    made = tmp_path / "h200-qwen3-8b-measured.yaml"
    dspark(
        *("calibrate", recording, "--out", tmp_path / "profile.json", "--hardware", "H200"),
        *("--base", "h200-qwen3-8b", "--scenario", made, "--json"),
    ).json()
    base, measured = load("h200-qwen3-8b"), load(str(made))
    assert measured.name == "h200-qwen3-8b-measured"
    assert measured.cost == profiles.load(tmp_path / "profile.json").cost
    kept = ("model", "workload", "memory", "acceptance", "drafter_quality", "server", "loads", "run")
    assert all(getattr(measured, name) == getattr(base, name) for name in kept)
    record = measured.cost.tabulate()
    told = host_s(record, 24, True) + draft_s(record, 24) + verify_s(record, 24 * 8, True, 2400, 24)
    assert told == pytest.approx(linear(24, 192, True, 2400), rel=0.03)
    short = measured.model_copy(update={"run": Run(requests=20, warmup_requests=4)})
    assert simulate(short, Arm("whole", short.server, Fixed(length=7))).throughput_tok_s > 0


def test_a_models_own_step_times_have_no_error_beside_themselves(
    found: Calibrated, recording: Path, tmp_path: Path
) -> None:
    """The recording, beside a scenario that has its times, and beside one with steps twice as long."""
    from dspark_tuning.measuring.calibrate.model_errors import error_quantiles, measured, model_errors

    made = tmp_path / "measured.yaml"
    made.write_text(measured(load("h200-qwen3-8b"), found.profile, "measured"))
    same = model_errors(found.decoded, load(str(made)), GAMMA)
    assert len(same) >= 8 and {cell.drafted for cell in same} == {True, False}
    assert error_quantiles(same)[0] < 0.03
    decoded = found.decoded.assign(step_s=found.decoded["step_s"] / 2)
    assert error_quantiles(model_errors(decoded, load(str(made)), GAMMA))[0] == pytest.approx(1.0, abs=0.05)
    said = dspark("calibrate", recording, "--out", tmp_path / "p.json", "--base", made)
    assert said.code == 0 and "measured: median error" in " ".join(said.out.split())


def test_a_scenario_to_write_needs_one_to_begin_with(recording: Path, tmp_path: Path) -> None:
    said = dspark("calibrate", recording, "--out", tmp_path / "p.json", "--scenario", tmp_path / "s.yaml")
    assert said.code == 2 and "add --base" in said.err
    assert not (tmp_path / "p.json").exists()
