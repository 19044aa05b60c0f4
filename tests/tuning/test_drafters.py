"""What offline rounds come to: figures by hand, files that the simulator takes, and pairs that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from dspark_simulator.acceptance_model import load as load_acceptance
from dspark_simulator.scenario import load as load_scenario
from dspark_tuning.cli import app, data
from dspark_tuning.measuring.calibrate.rounds import Rounds
from dspark_tuning.measuring.drafters import evaluation
from dspark_tuning.measuring.drafters.figures import THRESHOLDS, figures
from dspark_tuning.reporting import drafters
from sglang_dspark.drafter.rounds import OfflineRounds
from sglang_dspark.errors import InputError

GAMMA = 4
RATES = {"sums": (0.9, 0.8, 0.7, 0.6), "prose": (0.5, 0.5, 0.4, 0.4)}


def played(seed: int, rates: tuple[float, ...], requests: int = 40, each: int = 30) -> OfflineRounds:
    """Rounds whose acceptance is known, and confidences that say it with a slope of 2."""
    rng = np.random.default_rng(seed)
    quality = np.log(np.array(rates) / (1 - np.array(rates))) + rng.normal(0.0, 0.5, (requests * each, GAMMA))
    accepted = rng.random(quality.shape) < 1.0 / (1.0 + np.exp(-quality))
    number = np.repeat(np.arange(requests), each)
    return OfflineRounds(2.0 * quality, accepted.cumprod(1).sum(1), [], number, np.zeros_like(number))


@pytest.fixture(scope="module")
def evaluated() -> evaluation.Evaluation:
    sets = {name: played(n, rates) for n, (name, rates) in enumerate(RATES.items())}
    return evaluation.evaluate({0.0: sets, 1.0: sets}, "t", "d", "Qwen3DSparkModel", GAMMA)


def test_figures_equal_counting() -> None:
    accepted = np.array([2, 0, 1, 2])
    logits = np.array([[3.0, 3.0], [-3.0, 3.0], [3.0, -3.0], [0.1, 3.0]])
    rounds = Rounds(("x",), np.zeros(4, int), np.array([0, 0, 1, 1]), np.full(4, 2), accepted, logits)
    (found,) = figures(rounds, 0.0)
    assert (found.requests, found.rounds, found.judged) == (2, 4, [4, 3])
    assert found.accepted_length.value == 9 / 4
    assert [each.value for each in found.acceptance] == [3 / 4, 2 / 3]
    # Two requests, of means 2 and 2.5: the interval is between them.
    assert found.accepted_length.low == 2.0 and found.accepted_length.high == 2.5
    swept = {each.threshold: each for each in found.sweep}
    assert [each.threshold for each in found.sweep] == list(THRESHOLDS)
    assert swept[0.0].verify_tokens == 3.0 and swept[0.0].accepted_length == 9 / 4 and swept[0.0].acceptance == 5 / 8
    # Above 0.5: blocks of 2, 0, 1, 2 drafts; above 0.6 the last has none.
    assert swept[0.5].verify_tokens == 9 / 4 and swept[0.5].acceptance == 1.0
    assert swept[0.6].verify_tokens == 7 / 4 and swept[0.6].accepted_length == 7 / 4


def test_intervals_hold_what_is_true() -> None:
    """The mean of rounds drawn from a known law is inside nine intervals of ten or more."""
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        accepted = rng.binomial(4, 0.5, 400)
        nothing = np.full((400, 4), np.nan)
        rounds = Rounds(("x",), np.zeros(400, int), np.arange(400) // 10, np.full(400, 4), accepted, nothing)
        (found,) = figures(rounds, 1.0)
        assert found.sweep == []
        inside += found.accepted_length.low <= 3.0 <= found.accepted_length.high
    assert 87 <= inside <= 100


def test_the_model_accepts_what_was_accepted(evaluated: evaluation.Evaluation) -> None:
    fit = evaluated.fit
    assert fit is not None
    assert np.abs(fit.modelled - fit.measured).max() < 0.03
    assert fit.model.slope == pytest.approx([2.0] * GAMMA, abs=0.5)
    head = evaluated.head[0.0]
    assert head is not None
    # Logits that are twice too steep are mended by temperatures near 2.
    assert head.temperatures == pytest.approx([2.0] * GAMMA, rel=0.35)
    assert head.ece_after.mean() < head.ece_before.mean()


def test_files_are_what_simulate_takes(evaluated: evaluation.Evaluation, tmp_path: Path) -> None:
    files = evaluation.write(evaluated, tmp_path, drafters.render(evaluated, ["dspark eval"]))
    assert {file.name for file in files} == {"figures.json", "report.html", "acceptance.yaml", "sts.json"}
    again = json.loads((tmp_path / "figures.json").read_text())
    assert [(each["dataset"], each["temperature"]) for each in again["figures"]] == [
        (name, temperature) for temperature in (0.0, 1.0) for name in ("sums", "prose", "all")
    ]
    model = load_acceptance(tmp_path / "acceptance.yaml")
    assert set(model.domains) == set(RATES)
    scenario = load_scenario("b300-v4flash").with_acceptance(tmp_path / "acceptance.yaml", "prose")
    assert scenario.drafter() == model and scenario.drafter_gamma == scenario.server.gamma == GAMMA
    assert {klass.domain for klass in scenario.workload.classes} == {"prose"}
    with pytest.raises(InputError, match=r"acceptance\.yaml: .*is not known; use one of sums, prose"):
        load_scenario("b300-v4flash").with_acceptance(tmp_path / "acceptance.yaml")
    arguments = ["simulate", "--acceptance", str(tmp_path / "acceptance.yaml"), "--requests", "300", "--json"]
    done = {name: CliRunner().invoke(app, [*arguments, "--domain", name]) for name in RATES}
    lengths = {name: json.loads(each.stdout)["result"]["accepted_length"] for name, each in done.items()}
    for each in again["figures"]:
        if each["dataset"] in RATES:
            assert lengths[each["dataset"]] == pytest.approx(each["accepted_length"][0], rel=0.05)
    html = (tmp_path / "report.html").read_text()
    assert "Acceptance by position at temperature 1" in html and "sweep-0" in html


def test_without_a_confidence_head_there_is_no_model(tmp_path: Path) -> None:
    plain = played(0, RATES["sums"])._replace(confidence_logits=np.full((1200, GAMMA), np.nan))
    found = evaluation.evaluate({1.0: {"sums": plain}}, "t", "d", "DFlashDraftModel", GAMMA)
    assert found.fit is None and found.head == {1.0: None}
    files = evaluation.write(found, tmp_path, drafters.render(found, []))
    assert {file.name for file in files} == {"figures.json", "report.html"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prompts for the packaged pair."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("eval")
    lines = [
        json.dumps({"turns": [f"import os\nimport sys\n\nclass A{n}:\n", "def f("][: 1 + n % 2]}) for n in range(4)
    ]
    (folder / "code.jsonl").write_text("\n".join(lines) + "\n")
    yield folder


def test_eval_plays_the_packaged_pair(folder: Path) -> None:
    from sglang_dspark import demo

    arguments = ["eval", "demo", str(demo.DRAFT), "--data", "code", "--data-dir", str(folder), "--max-tokens", "24"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(folder / "out"), "--json", "--threads", "1"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(each["dataset"], each["temperature"]) for each in found["figures"]] == [("code", 0.0), ("code", 1.0)]
    greedy = found["figures"][0]
    # Four prompts, two of them of two turns, which are requests of their own.
    assert greedy["requests"] == 6 and greedy["accepted_length"][0] > 1.5
    again = CliRunner().invoke(app, [*arguments, "--out", str(folder / "again"), "--json", "--threads", "1"])
    assert json.loads(again.stdout) == found


def test_pairs_that_do_not_belong_together(folder: Path) -> None:
    from sglang_dspark import demo
    from sglang_dspark.drafter.checkpoint import load as load_draft
    from sglang_dspark.drafter.pair import check
    from sglang_dspark.drafter.target import Target, load_tokenizer

    target, tokenizer = Target.load("demo"), load_tokenizer("demo")
    drafter = load_draft(demo.DRAFT)
    check(drafter, target, tokenizer, "d")
    with pytest.raises(InputError, match=r"d: vocab_size: 1024 is below the tokenizer's 1025 tokens"):
        check(drafter, target, range(1025), "d")
    drafter.embed_tokens.weight.data[3] += 1.0
    with pytest.raises(InputError, match="d: embed_tokens differs from the target's embedding"):
        check(drafter, target, tokenizer, "d")
    drafter.config = drafter.config.model_copy(update={"num_target_layers": 7})
    with pytest.raises(InputError, match="d: num_target_layers: 7 is not 6"):
        check(drafter, target, tokenizer, "d")
    drafter.config = drafter.config.model_copy(update={"num_target_layers": 6, "vocab_size": 2048})
    with pytest.raises(InputError, match="d: vocab_size, hidden_size"):
        check(drafter, target, tokenizer, "d")


def test_commands_refuse_in_one_line(folder: Path) -> None:
    for arguments, message in (
        (["eval", "demo", "/nowhere", "--data", "code", "--data-dir", str(folder)], "config.json: cannot be read"),
        (["eval", "demo", "/nowhere", "--data", "tea"], "data: 'tea' is no file"),
        (["data", "regenerate", "a", "b"], "--url, --target: give one of them"),
        (["data", "cache", "a", "--out", "b", "--target", "demo", "--layers", "x"], "--layers: 'x' is not valid"),
        (["train", "nothing"], "nothing: is neither a file nor a packaged recipe"),
        (["simulate", "--domain", "x"], "--domain: 'x' is given without --acceptance"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, InputError), (arguments, done.output)
        assert message in str(done.exception)


@pytest.mark.parametrize(("precision", "dtype"), [(None, "float32"), ("float32", "float32"), ("bf16", "bfloat16")])
def test_precision_of_the_target(precision: str | None, dtype: str) -> None:
    pytest.importorskip("transformers")
    target = data._target("demo", precision, "cpu")
    assert str(target.model.dtype) == f"torch.{dtype}"


def test_large_tensors_get_huge_pages() -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("this kernel gives none")
    program = (
        "from dspark_tuning.cli.common import start_torch; start_torch(1); import torch\n"
        "held = torch.zeros(1 << 25); print(torch.get_num_threads(), open('/proc/self/smaps_rollup').read())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    huge = next(line for line in done.stdout.splitlines() if line.startswith("AnonHugePages"))
    assert done.stdout.startswith("1 ") and int(huge.split()[1]) > 10_000


def test_recipes_are_shown() -> None:
    done = CliRunner().invoke(app, ["train", "qwen3-4b-dspark", "--show"])
    assert yaml.safe_load(done.stdout)["draft"]["markov_rank"] == 256
