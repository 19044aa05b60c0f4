"""The packaged acceptance model against the DSpark paper, and the model's own properties.

The figures are measured by simulating the function that the engine calls, on answers of 448 tokens: at 448 the last
block of an answer, which is cut short, costs as much of a block on average as it does in the paper's Figure 5.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from numba import njit
from scipy.stats import mannwhitneyu

from dspark_simulator import acceptance_model
from dspark_simulator.acceptance_model import AcceptanceModel, load, packaged, propose, quality
from dspark_simulator.draws import stream
from dspark_simulator.sts import ece
from sglang_dspark.errors import InputError
from tests.published_data import published

REQUESTS, TOKENS, SEED = 2000, 448, 11
GROUPS = {
    "Math": ("gsm8k", "math500", "aime25"),
    "Code": ("mbpp", "humaneval", "livecodebench"),
    "Chat": ("mt-bench", "alpaca", "arena-hard-v2"),
}
SWEPT = {"Math": "gsm8k", "Code": "humaneval", "Chat": "mt-bench"}


class Blocks(NamedTuple):
    """Simulated blocks: survivals [N, gamma], accepted drafts [N]; tokens emitted and verified in all."""

    survival: np.ndarray
    accepted: np.ndarray
    emitted: int
    verified: int


@njit
def _simulate(
    model: np.ndarray, requests: int, tokens: int, gamma: int, threshold: float, of_survival: bool, seed: int,
    survival: np.ndarray, accepted: np.ndarray,
) -> tuple[int, int, int]:  # fmt: skip
    blocks, verified = 0, 0
    row = np.empty(gamma, np.float32)
    for r in range(requests):
        key = stream(seed, r)
        i = 0
        while i < tokens:
            matched = propose(model, key, 0, i, gamma, row)
            length = 0
            previous = 1.0
            while length < gamma:
                measure = row[length] if of_survival else row[length] / previous
                if measure < threshold:
                    break
                previous = row[length]
                length += 1
            if blocks < len(survival):
                survival[blocks] = row
                accepted[blocks] = matched
            blocks += 1
            verified += min(length + 1, tokens - i)
            i += min(matched, length) + 1
    return blocks, requests * tokens, verified


def simulate(
    model: AcceptanceModel, domain: str, gamma: int = 7, threshold: float = 0.0, of_survival: bool = False,
    requests: int = REQUESTS,
) -> Blocks:  # fmt: skip
    """Simulated answers of ``domain``, with each block cut at the first draft with confidence below ``threshold``."""
    most = requests * TOKENS if threshold == 0.0 else 0
    survival, accepted = np.empty((most, gamma), np.float32), np.empty(most, np.int64)
    blocks, emitted, verified = _simulate(
        model.compile([domain]), requests, TOKENS, gamma, threshold, of_survival, SEED, survival, accepted
    )
    kept = blocks if threshold == 0.0 else 0
    return Blocks(survival[:kept].copy(), accepted[:kept].copy(), emitted, verified)


def raw(model: AcceptanceModel) -> AcceptanceModel:
    return model.with_temperatures((1.0,) * model.gamma)


@cache
def packaged_blocks(domain: str, gamma: int = 7) -> Blocks:
    return simulate(packaged(), domain, gamma)


@cache
def alpaca_raw() -> Blocks:
    return simulate(raw(packaged()), "alpaca")


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(published(f"dspark_paper_{name}.csv"))


def accepted_length(domain: str, gamma: int = 7) -> float:
    return 1.0 + float(packaged_blocks(domain, gamma).accepted.mean())


# The paper's figures.


@pytest.mark.parametrize("group", GROUPS)
def test_conditional_acceptance_by_position(group: str) -> None:
    paper = table("fig2_conditional_acceptance").query("drafter == 'DSpark' and domain == @group")
    assert len(paper) == 7
    for j, expected in zip(paper.draft_position, paper.conditional_acceptance, strict=True):
        counts = [packaged_blocks(name).accepted for name in GROUPS[group]]
        ours = np.mean([(accepted >= j).sum() / (accepted >= j - 1).sum() for accepted in counts])
        assert ours == pytest.approx(expected, abs=0.02), f"position {j}"


def test_accepted_length_by_data_set() -> None:
    paper = table("table1_accepted_length").query("target == 'Qwen3-4B' and drafter == 'DSpark'")
    assert {name.lower() for name in paper.dataset} == set(packaged().domains)
    for name, expected in zip(paper.dataset, paper.accepted_length_incl_bonus, strict=True):
        assert accepted_length(name.lower()) == pytest.approx(expected, rel=0.03), name


@pytest.mark.parametrize("group", GROUPS)
def test_accepted_length_by_draft_length(group: str) -> None:
    # One drafter here, one trained for each length in the paper: hence the wider band.
    paper = table("fig4_draft_length").query("drafter == 'DSpark (markov)' and domain_or_context == @group")
    paper = paper[paper.draft_length_incl_anchor <= 8]
    assert len(paper) == 2
    for block, expected in zip(paper.draft_length_incl_anchor, paper.value, strict=True):
        ours = np.mean([accepted_length(name, block - 1) for name in GROUPS[group]])
        assert ours == pytest.approx(expected, rel=0.05), f"draft length {block}"


@pytest.mark.parametrize("group", GROUPS)
def test_acceptance_rate_over_confidence_thresholds(group: str) -> None:
    paper = table("fig5_threshold_sweep").query("domain == @group")
    assert len(paper) == 10
    for threshold, expected, verify_tokens in zip(
        paper.confidence_threshold,
        paper.acceptance_rate_pct,
        paper.accepted_plus_rejected_tokens_per_step,
        strict=True,
    ):
        ours = simulate(raw(packaged()), SWEPT[group], threshold=max(threshold, 1e-9))
        rate = ours.emitted / ours.verified
        assert 100.0 * rate == pytest.approx(expected, abs=3.0), f"threshold {threshold}"
        length = verify_tokens * expected / 100.0
        assert ours.verified == pytest.approx(ours.emitted / length * verify_tokens, rel=0.05), f"threshold {threshold}"


def test_the_threshold_of_the_sweep_is_on_raw_confidence() -> None:
    paper = table("fig5_threshold_sweep").query("domain == 'Chat'").set_index("confidence_threshold")
    rate = paper.acceptance_rate_pct / 100.0
    survival = simulate(raw(packaged()), "mt-bench", threshold=0.3, of_survival=True)
    calibrated = simulate(packaged(), "mt-bench", threshold=0.9)
    assert survival.emitted / survival.verified > rate[0.3] + 0.1
    assert calibrated.emitted / calibrated.verified > rate[0.9] + 0.01


@pytest.mark.parametrize("row", range(4))
def test_calibration_of_the_head(row: int) -> None:
    paper = table("calibration").iloc[row]
    position = int(paper.draft_position)
    before, after = alpaca_raw(), packaged_blocks("alpaca")
    happened = before.accepted >= position
    score = before.survival[:, position - 1]
    auc = mannwhitneyu(score[happened], score[~happened]).statistic / (happened.sum() * (~happened).sum())
    assert auc == pytest.approx(paper.roc_auc, abs=0.01)
    assert 0.81 <= auc <= 0.91
    uncalibrated = ece(score, happened, bins=20)
    assert uncalibrated == pytest.approx(paper.ece_before_pct / 100.0, abs=0.01)
    assert 0.03 <= uncalibrated <= 0.08
    assert ece(after.survival[:, position - 1], after.accepted >= position, bins=20) <= 0.02


# The model's own properties.


def key(seed: int, request: int) -> np.uint64:
    # Called from Python, numba's integers come back as Python's.
    return np.uint64(stream(seed, request))


def drafter(**fields: Any) -> dict[str, Any]:
    """A model with a calibrated head and one domain, ``text``, without spread by default."""
    gamma = fields.pop("gamma", 8)
    domain = {"mean": 1.0, "ability": 0.0, "persistence": 0.0, "variation": 0.0, "knee": 100.0, "stretch": 1.0}
    domain["offsets"] = [0.0] * gamma
    model = {"target": "t", "drafter": "d", "source": "s", "persistence_tokens": 32}
    model |= {"slope": [1.0] * gamma, "bias": [0.0] * gamma, "sts": [1.0] * gamma}
    model |= {name: fields.pop(name) for name in tuple(fields) if name in model}
    return model | {"domains": {"text": domain | fields}}


def of(**fields: Any) -> AcceptanceModel:
    return AcceptanceModel.model_validate(drafter(**fields))


@pytest.mark.parametrize("p", [0.3, 0.8, 0.95])
def test_constant_acceptance_is_geometric(p: float) -> None:
    blocks = simulate(of(mean=float(np.log(p / (1.0 - p)))), "text", gamma=8)
    assert blocks.survival[0] == pytest.approx(p ** np.arange(1, 9), rel=1e-6)
    assert np.all(blocks.survival == blocks.survival[0])
    expected = (1.0 - p**9) / (1.0 - p)
    error = blocks.accepted.std() / np.sqrt(len(blocks.accepted))
    assert 1.0 + blocks.accepted.mean() == pytest.approx(expected, abs=5.0 * error)


def test_a_head_that_says_what_it_knows_is_calibrated() -> None:
    model = of(mean=0.7, ability=0.5, persistence=0.6, variation=0.9, knee=1.0, stretch=3.0, offsets=[-0.1] * 8)
    blocks = simulate(model, "text", gamma=8)
    for j in range(8):
        assert ece(blocks.survival[:, j], blocks.accepted > j, bins=20) < 0.004


def test_the_head_is_sharpened_by_slope_and_bias_and_softened_by_sts() -> None:
    z = 0.8
    model = of(mean=z, gamma=2, slope=[1.5, 2.0], bias=[0.3, -0.1], sts=[1.25, 4.0])
    survival = np.empty(2, np.float32)
    propose(model.compile(["text"]), key(0, 0), 0, 0, 2, survival)
    confidence = 1.0 / (1.0 + np.exp(-(np.array([1.5, 2.0]) * z + [0.3, -0.1]) / [1.25, 4.0]))
    assert survival == pytest.approx(np.cumprod(confidence), rel=1e-6)


def test_acceptance_of_a_token_does_not_depend_on_where_its_block_began() -> None:
    model = of(mean=0.5, ability=0.5, persistence=0.6, variation=0.9).compile(["text"])
    survival = np.empty(8, np.float32)
    accepts: dict[int, set[bool]] = {}
    for start in range(300):
        accepted = propose(model, key(1, 2), 0, start, 8, survival)
        for i in range(start, start + min(accepted + 1, 8)):
            accepts.setdefault(i, set()).add(i < start + accepted)
    assert all(len(outcomes) == 1 for outcomes in accepts.values())
    assert {True} in accepts.values()
    assert {False} in accepts.values()


def test_same_block_whatever_the_number_of_drafts() -> None:
    model = packaged().compile(["alpaca"])
    whole, part = np.empty(7, np.float32), np.empty(7, np.float32)
    for start in range(50):
        accepted = propose(model, key(3, 4), 0, start, 7, whole)
        for gamma in range(7):
            assert propose(model, key(3, 4), 0, start, gamma, part) == min(accepted, gamma)
            assert np.array_equal(part[:gamma], whole[:gamma])


@pytest.mark.parametrize(("uniform", "accepted"), [(0.0, 7), (1.0 - 2.0**-53, 0)])
def test_confidence_does_not_depend_on_acceptance(
    monkeypatch: pytest.MonkeyPatch, uniform: float, accepted: int
) -> None:
    compiled = packaged().compile(["alpaca"])
    # Interpreted, to replace the acceptance draw: Python reads fields as attributes only of a record array.
    model = compiled.view(np.recarray)
    monkeypatch.setattr(acceptance_model, "quality", lambda _, *arguments: quality(compiled, *arguments))
    expected, survival = np.empty(7, np.float32), np.empty(7, np.float32)
    propose(compiled, key(5, 6), 0, 10, 7, expected)
    monkeypatch.setattr(acceptance_model, "uniform", lambda bits: uniform)
    assert propose.py_func(model, key(5, 6), 0, 10, 7, survival) == accepted
    assert survival == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1, 7, 32, 127])
def test_quality_does_not_depend_on_where_reading_began(scale: int) -> None:
    model = of(mean=0.4, ability=0.5, persistence=0.7, variation=0.9, persistence_tokens=scale).compile(["text"])
    whole, part = np.empty(40_000), np.empty(9)
    quality(model, key(2, 3), 0, 0, len(whole), whole)
    for start in (*range(300), *range(39_700, 39_990)):
        quality(model, key(2, 3), 0, start, 9, part)
        assert np.array_equal(part, whole[start : start + 9])


@pytest.mark.parametrize("scale", [1, 10, 128])
def test_persistence_keeps_its_variance_and_fades(scale: int) -> None:
    model = of(mean=0.0, persistence=2.0, persistence_tokens=scale).compile(["text"])
    latent = np.empty((20_000, 2 * scale + 1))
    for r in range(len(latent)):
        quality(model, key(7, r), 0, 5 * scale, latent.shape[1], latent[r])
    assert latent.std(0) == pytest.approx(2.0, rel=0.03)
    correlation = latent.T @ latent[:, 0] / len(latent) / 4.0
    assert abs(correlation[scale]) < 0.03
    assert abs(correlation[-1]) < 0.03
    if scale > 1:
        # A tenth of the way between two draws: 0.9 of one and 0.1 of the other, over the norm.
        place = max(1, scale // 10)
        near, far = 1.0 - place / scale, place / scale
        assert correlation[place] == pytest.approx(near / np.hypot(near, far), abs=0.03)


def test_quality_is_the_sum_of_its_parts_stretched_above_the_knee() -> None:
    parts = {"ability": 0.5, "persistence": 0.7, "variation": 0.9}

    def latent(**fields: Any) -> np.ndarray:
        out = np.empty(100)
        quality(of(**fields).compile(["text"]), key(8, 9), 0, 3, 100, out)
        return out

    whole = latent(mean=0.4, **parts)
    apart = [latent(mean=0.0, **{name: size}) for name, size in parts.items()]
    assert np.ptp(apart[0]) == 0.0
    assert whole == pytest.approx(0.4 + sum(apart))
    assert latent(mean=0.4, knee=0.6, stretch=3.0, **parts) == pytest.approx(
        np.where(whole > 0.6, 0.6 + 3.0 * (whole - 0.6), whole)
    )


@pytest.mark.parametrize(("mean", "accepted", "survival"), [(-100.0, 0, 0.0), (100.0, 8, 1.0)])
def test_extreme_logits_stay_finite(mean: float, accepted: int, survival: float) -> None:
    model = of(mean=mean, slope=[100.0] * 8, variation=10.0).compile(["text"])
    out = np.empty(8, np.float32)
    for request in range(100):
        assert propose(model, key(0, request), 0, 0, 8, out) == accepted
        assert np.all(out == survival)


def test_domains_are_compiled_in_the_order_given() -> None:
    names = ["alpaca", "gsm8k", "alpaca"]
    together = packaged().compile(names)
    survival, alone = np.empty(7, np.float32), np.empty(7, np.float32)
    for d, name in enumerate(names):
        for start in range(20):
            accepted = propose(together, key(1, 1), d, start, 7, survival)
            assert propose(packaged().compile([name]), key(1, 1), 0, start, 7, alone) == accepted
            assert np.array_equal(survival, alone)


# Bad input.


def test_unknown_domain_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'poetry'.*gsm8k.*alpaca") as error:
        packaged().compile(["gsm8k", "poetry"])
    assert "\n" not in str(error.value)


def test_too_many_domains() -> None:
    with pytest.raises(InputError, match="17 are too many; use at most 16"):
        packaged().compile(["gsm8k"] * 17)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"domains": {"text": {"mean": float("nan")}}}, "domains.text.mean"),
        ({"domains": {"text": {"stretch": 0.5}}}, "domains.text.stretch"),
        ({"domains": {"text": {"ability": -1.0}}}, "domains.text.ability"),
        ({"domains": {"text": {"offsets": [0.0]}}}, "domains.text.offsets"),
        ({"domains": {"text": {"skill": 1.0}}}, "domains.text.skill"),
        ({"sts": [1.0]}, "sts"),
        ({"sts": [0.0] * 8}, "sts"),
        ({"bias": [float("inf")] * 8}, "bias"),
        ({"slope": []}, "slope"),
        ({"slope": [1.0] * 17}, "slope"),
        ({"persistence_tokens": 0}, "persistence_tokens"),
        ({"temperature": 1.0}, "temperature"),
        ({"domains": {}}, "domains"),
    ],
)
def test_load_refuses(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    content = drafter()
    if change.get("domains"):
        content["domains"]["text"] |= change["domains"]["text"]
    else:
        content |= change
    path = tmp_path / "drafter.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=field) as error:
        load(path)
    # A line for each mistake.
    assert all(line.startswith(f"{path}: ") for line in str(error.value).splitlines())


def test_load_refuses_what_is_not_a_file_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "absent.yaml")
    path = tmp_path / "broken.yaml"
    path.write_text("domains: [")
    with pytest.raises(InputError, match="syntax") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_temperatures_are_validated() -> None:
    with pytest.raises(InputError, match="sts"):
        packaged().with_temperatures([1.0])
    with pytest.raises(InputError, match="sts"):
        packaged().with_temperatures([-1.0] * packaged().gamma)


def test_json_and_yaml_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "drafter.json"
    path.write_text(json.dumps(packaged().model_dump(mode="json")))
    assert load(path) == packaged()
