"""Refit the packaged acceptance profile to published figures.

``python -m dspark_simulator.evidence.fit_acceptance DIR``; DIR holds tables read off arXiv 2607.05147 (DSpark on
Qwen3-4B): conditional acceptance by position (Fig. 2), the confidence threshold sweep (Fig. 5), calibration of the head
(Fig. 6) and accepted length by data set (Table 1). It takes about ten minutes.

The fitted figures are expectations over the acceptance draws rather than counts, so they are smooth in the parameters:
given the latent quality of an output, the probability that a block starts at a token follows from the probabilities of
the previous tokens.

Fig. 5 is interpreted as dropping a block's drafts from the first one whose raw confidence ``c_k`` is below the
threshold. With the survival ``a_k`` instead, the sum of squared residuals of the best fit is five times as large, and
with confidences after STS ten times. Moreover, a threshold of 0.1 cut one chat block in a hundred, while in Fig. 6 two
thirds of the ``a_7`` are below 0.1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit, logit

from dspark_simulator import sts
from dspark_simulator.acceptance_model import PROFILE, AcceptanceModel, Domain, propose, quality
from dspark_simulator.draws import stream
from sglang_dspark.files import write_atomically
from sglang_dspark.jit import njit

Floats = NDArray[np.float64]
Values = dict[str, Floats]

GROUPS = ("Math", "Code", "Chat")
DATASETS = ("GSM8K", "MATH500", "AIME25", "MBPP", "HumanEval", "LiveCodeBench", "MT-Bench", "Alpaca", "Arena-Hard-v2")
SWEPT = ("GSM8K", "HumanEval", "MT-Bench")
"""Data set of each domain of Fig. 5, identified by its accepted length in Table 1."""
CALIBRATED = DATASETS.index("Alpaca")
CALIBRATED_POSITIONS = (1, 3, 5, 7)
THRESHOLDS = tuple(step / 10 for step in range(10))
BLOCK = 7
FIG6_BINS = 20

PERSISTENCE_TOKENS = 32
REQUESTS = 3000
TOKENS = 96
SEED = 20260705

INITIAL: Values = {
    "mean": np.array([3.3, 3.0, 2.6, 2.8, 3.0, 2.7, 1.2, 1.2, 1.1]),
    "knee": np.array([3.0, 3.0, 1.0]),
    "log_stretch": np.array([1.2]),
    "log_spread": np.array([0.0, 0.0, -0.2]),
    "shared": np.array([0.0, 0.0]),
    "offset": np.array([-0.4, -0.7, -1.0] * 4),
    "slope": np.array([1.4, 1.0]),
    "bias": np.array([0.2, 0.2]),
    "log_sts": np.array([0.45, 0.35, 0.25, 0.0]),
}
"""Initial values. ``shared``: logit of the share of variance common to the tokens of a passage, for all data sets and
for Alpaca. ``offset``: positions 3, 5 and 7, for the groups and Alpaca. ``slope`` and ``bias``: positions 1 and 7.
``log_sts``: positions 1, 3, 5 and 7."""


class Published(NamedTuple):
    """Published figures to reproduce; domains and data sets in the order of ``GROUPS`` and ``DATASETS``."""

    conditional: Floats  # [3, 7]
    accepted_length: Floats  # [9], tokens
    verify_tokens: Floats  # [3, 10], for THRESHOLDS
    rate: Floats  # [3, 10], percent
    histogram: Floats  # [4, 20], share of raw survivals in each bin
    observed: Floats  # [4, 20], acceptance in each bin
    auc: Floats  # [4]
    ece: Floats  # [4], of raw survivals
    ece_after_sts: Floats  # [4]


def read(folder: Path) -> Published:
    """Read the published tables."""

    def table(name: str) -> pd.DataFrame:
        return pd.read_csv(folder / f"dspark_paper_{name}.csv")

    def by_group(frame: pd.DataFrame, column: str) -> Floats:
        return np.array([frame.loc[frame.domain == name, column] for name in GROUPS], np.float64)

    fig2, fig5, calibration = table("fig2_conditional_acceptance"), table("fig5_threshold_sweep"), table("calibration")
    lengths = table("table1_accepted_length").query("target == 'Qwen3-4B' and drafter == 'DSpark'").set_index("dataset")
    bars, curve = table("fig6_histogram"), table("fig6_reliability").query("curve == 'before_STS'")
    histogram = np.array([bars[bars.draft_position == j].bar_height_pt for j in CALIBRATED_POSITIONS])
    verify_tokens = by_group(fig5, "accepted_plus_rejected_tokens_per_step")
    # The last block of an answer is cut short; otherwise a whole block would be verified at threshold 0.
    cut = verify_tokens[:, :1] / (BLOCK + 1)
    return Published(
        conditional=by_group(fig2[fig2.drafter == "DSpark"], "conditional_acceptance"),
        accepted_length=lengths.loc[list(DATASETS), "accepted_length_incl_bonus"].to_numpy(np.float64),
        verify_tokens=verify_tokens / cut,
        rate=by_group(fig5, "acceptance_rate_pct") * cut,
        histogram=histogram / histogram.sum(1, keepdims=True),
        observed=np.array([curve[curve.draft_position == j].observed_acceptance for j in CALIBRATED_POSITIONS]),
        auc=calibration.roc_auc.to_numpy(np.float64),
        # Within the model's documented band of 3 to 8 %; the paper's position 3 is at 8.2 %.
        ece=np.clip(calibration.ece_before_pct.to_numpy(np.float64) / 100.0, 0.035, 0.076),
        ece_after_sts=calibration.ece_after_sts_pct.to_numpy(np.float64) / 100.0,
    )


def described(values: Values) -> AcceptanceModel:
    """Acceptance model of ``values``, with all temperatures 1."""
    positions = np.arange(1, BLOCK + 1)
    offsets = [np.interp(positions, (1, 3, 5, 7), (0.0, *late)) for late in values["offset"].reshape(4, 3)]
    domains = {}
    for index, name in enumerate(DATASETS):
        group = index // 3
        apart = index == CALIBRATED
        spread = np.exp(values["log_spread"][group])
        shared = expit(values["shared"][int(apart)])
        common = float(spread * np.sqrt(shared / 2.0))
        domains[name.lower()] = Domain(
            mean=values["mean"][index],
            ability=common,
            persistence=common,
            variation=spread * np.sqrt(1.0 - shared),
            knee=values["knee"][group],
            stretch=np.exp(values["log_stretch"][0]),
            offsets=tuple(offsets[3 if apart else group]),
        )
    return AcceptanceModel(
        target="Qwen/Qwen3-4B",
        drafter="DSpark, block 7",
        source="arXiv 2607.05147, Table 1 and Figures 2, 5 and 6",
        persistence_tokens=PERSISTENCE_TOKENS,
        slope=tuple(np.interp(positions, (1, BLOCK), values["slope"])),
        bias=tuple(np.interp(positions, (1, BLOCK), values["bias"])),
        sts=(1.0,) * BLOCK,
        domains=domains,
    )


@njit(cache=True)
def _qualities(model: NDArray[np.void], domain: int, seed: int, latent: Floats) -> None:
    for r in range(latent.shape[0]):
        quality(model, stream(seed, r), domain, 0, latent.shape[1], latent[r])


@njit(cache=True)
def _blocks(
    model: NDArray[np.void], domain: int, latent: Floats, threshold: float, start: Floats
) -> tuple[Floats, Floats]:
    """Expected blocks along outputs with given latent quality.

    Args:
        latent: [requests, tokens], from :func:`quality`.
        threshold: Logit of the raw confidence below which a draft and the following ones are dropped.
        start: [requests, tokens - BLOCK]; receives the probability that a block starts at each token.

    Returns:
        [BLOCK] each: shares of blocks in which a draft is verified, and in which it is accepted.
    """
    m = model[0]
    verified, accepted = np.zeros(BLOCK), np.zeros(BLOCK)
    blocks = 0.0
    chance = np.empty(latent.shape[1] + 1)
    for r in range(latent.shape[0]):
        chance[:] = 0.0
        chance[0] = 1.0
        for i in range(start.shape[1]):
            start[r, i] = chance[i]
            blocks += chance[i]
            reach = chance[i]
            length = 0
            while length < BLOCK:
                x = latent[r, i + length]
                if m.gain[length] * x + m.shift[domain, length] < threshold:
                    break
                verified[length] += chance[i]
                p = 1.0 / (1.0 + np.exp(-x - m.offset[domain, length]))
                chance[i + length + 1] += reach * (1.0 - p)
                reach *= p
                accepted[length] += reach
                length += 1
            chance[i + length + 1] += reach
    return verified / blocks, accepted / blocks


class _Outputs:
    """Outputs of one data set under a model, and their figures."""

    def __init__(self, model: AcceptanceModel, dataset: str) -> None:
        self.record = model.compile([dataset.lower()])
        self.latent = np.empty((REQUESTS, TOKENS))
        _qualities(self.record, 0, SEED, self.latent)

    def blocks(self, threshold: float = 0.0) -> tuple[Floats, Floats, Floats]:
        start = np.empty((REQUESTS, TOKENS - BLOCK))
        verified, accepted = _blocks(self.record, 0, self.latent, float(logit(threshold)), start)
        return start, verified, accepted

    def calibration(self, start: Floats) -> tuple[Floats, Floats, Floats]:
        """Weight of each block [N], raw logits and acceptance probability of its prefixes [N, BLOCK]."""
        m = self.record[0]
        x = sliding_window_view(self.latent, BLOCK, axis=1)[:, : start.shape[1]].reshape(-1, BLOCK)
        weight: Floats = start.ravel() / start.sum()
        logits: Floats = m["gain"][:BLOCK] * x + m["shift"][0, :BLOCK]
        return weight, logits, expit(x + m["offset"][0, :BLOCK]).cumprod(axis=1)


def accepted_length(model: AcceptanceModel, dataset: str) -> float:
    """Mean tokens of a whole block on one data set, the target's own token included, as in Table 1."""
    _, _, accepted = _Outputs(model, dataset).blocks()
    return 1.0 + float(accepted.sum())


def _auc(weight: Floats, score: Floats, chance: Floats) -> float:
    order = np.argsort(score)
    positive, negative = (weight * chance)[order], (weight * (1.0 - chance))[order]
    return float(positive @ (np.cumsum(negative) - negative / 2.0) / (positive.sum() * negative.sum()))


def _calibration_residuals(
    values: Values, published: Published, weight: Floats, logits: Floats, prefix: Floats
) -> list[Floats]:
    residuals = []
    raw = expit(logits).cumprod(axis=1)
    sts_by_position = np.exp(np.interp(np.arange(1, BLOCK + 1), CALIBRATED_POSITIONS, values["log_sts"]))
    scaled = expit(logits / sts_by_position).cumprod(axis=1)
    for row, position in enumerate(CALIBRATED_POSITIONS):
        score, chance = raw[:, position - 1], prefix[:, position - 1]
        share, observed = published.histogram[row], published.observed[row]
        mass, happened, gap = _binned(weight, score, chance)
        gap_after_sts = _binned(weight, scaled[:, position - 1], chance)[2]
        residuals.append((np.cumsum(mass - share) / 0.05)[:-1])
        residuals.append((happened / np.maximum(mass, 1e-12) - observed) * np.sqrt(share) / 0.025)
        residuals.append(
            np.array(
                [
                    (weight @ chance - share @ observed) / 0.017,
                    (_auc(weight, score, chance) - published.auc[row]) / 0.003,
                    (np.abs(gap).sum() - published.ece[row]) / 0.002,
                    (np.abs(gap_after_sts).sum() - published.ece_after_sts[row]) / 0.004,
                ]
            )
        )
    return residuals


def _binned(weight: Floats, score: Floats, chance: Floats) -> tuple[Floats, Floats, Floats]:
    """By bin of the score: weight of blocks, of accepted blocks, and of the excess of score over acceptance."""
    bin_of = np.minimum((score * FIG6_BINS).astype(np.int64), FIG6_BINS - 1)
    parts = (weight, weight * chance, weight * (score - chance))
    mass, happened, gap = (np.asarray(np.bincount(bin_of, part, FIG6_BINS), np.float64) for part in parts)
    return mass, happened, gap


def _residuals(values: Values, published: Published) -> Floats:
    """Differences from the published figures, in units of the desired precision of each."""
    model = described(values)
    conditional = np.empty((len(DATASETS), BLOCK))
    lengths = np.empty(len(DATASETS))
    residuals = [np.concatenate([values[name] - INITIAL[name] for name in ("log_stretch", "log_spread", "shared")])]
    for index, name in enumerate(DATASETS):
        outputs = _Outputs(model, name)
        start, _, accepted = outputs.blocks()
        lengths[index] = 1.0 + accepted.sum()
        conditional[index] = accepted / np.concatenate([[1.0], accepted[:-1]])
        if name in SWEPT:
            rows = [outputs.blocks(threshold)[1:] for threshold in THRESHOLDS]
            verify_tokens, kept = 1.0 + np.array(rows).sum(2).T
            domain = SWEPT.index(name)
            residuals.append((verify_tokens - published.verify_tokens[domain]) / 0.08)
            residuals.append((100.0 * kept / verify_tokens - published.rate[domain]) / 0.8)
        if index == CALIBRATED:
            residuals += _calibration_residuals(values, published, *outputs.calibration(start))
    residuals.append(((conditional.reshape(3, 3, BLOCK).mean(1) - published.conditional) / 0.005).ravel())
    residuals.append((lengths / published.accepted_length - 1.0) / 0.005)
    return np.concatenate(residuals)


def _minimised(published: Published) -> Values:
    """The values with the smallest squared residuals."""
    sizes = np.cumsum([value.size for value in INITIAL.values()])[:-1]

    def residuals(x: Floats) -> Floats:
        return _residuals(dict(zip(INITIAL, np.split(x, sizes), strict=True)), published)

    def jacobian(x: Floats, step: float = 0.02) -> Floats:
        # SciPy's finite differences have relative steps, too small against the remaining sampling noise.
        base = residuals(x)
        return np.stack([(residuals(x + move) - base) / step for move in step * np.eye(x.size)], axis=1)

    first = np.concatenate(list(INITIAL.values()))
    fit = least_squares(residuals, first, jacobian, ftol=3e-3, max_nfev=15, verbose=2)
    return dict(zip(INITIAL, np.split(fit.x, sizes), strict=True))


@njit(cache=True)
def _answers(
    model: NDArray[np.void], domain: int, requests: int, tokens: int, survival: NDArray[np.float32], accepted: Floats
) -> int:
    blocks = 0
    for r in range(requests):
        key = stream(SEED + 1 + domain, r)
        i = 0
        while i < tokens:
            matched = propose(model, key, domain, i, BLOCK, survival[blocks])
            accepted[blocks] = matched
            i += matched + 1
            blocks += 1
    return blocks


def temperatures(model: AcceptanceModel, requests: int = 300, tokens: int = 448) -> Floats:
    """STS temperatures from simulated answers, equally many of every domain."""
    raw = model.with_temperatures((1.0,) * BLOCK).compile(list(model.domains))
    logits, prefix_accepted = [], []
    for domain in range(len(model.domains)):
        survival, accepted = np.empty((requests * tokens, BLOCK), np.float32), np.empty(requests * tokens)
        blocks = _answers(raw, domain, requests, tokens, survival, accepted)
        products = np.concatenate([np.ones((blocks, 1)), survival[:blocks]], axis=1)
        confidence = np.clip(products[:, 1:] / products[:, :-1], 1e-7, 1.0 - 1e-7)
        logits.append(logit(confidence))
        prefix_accepted.append(accepted[:blocks, None] > np.arange(BLOCK))
    return sts.fit(np.concatenate(logits), np.concatenate(prefix_accepted))


def main(folder: Path, target: Path) -> None:
    """Fit the model to the tables in ``folder`` and write it to ``target``."""
    fields = _rounded(described(_minimised(read(folder))).model_dump(mode="json"))
    fields["sts"] = _rounded(temperatures(AcceptanceModel.model_validate(fields)).tolist())
    content = yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=120)
    write_atomically(target, f"# Written by python -m dspark_simulator.evidence.fit_acceptance.\n{content}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[1] / PROFILE)
