"""The evaluation of a drafter: offline rounds of several data sets at several temperatures. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from dspark_tuning.measuring.calibrate import acceptance_fit
from dspark_tuning.measuring.calibrate.acceptance_fit import AcceptanceFit
from dspark_tuning.measuring.calibrate.confidence import ConfidenceCalibration, calibrate
from dspark_tuning.measuring.calibrate.exports import temperatures
from dspark_tuning.measuring.calibrate.rounds import Rounds
from dspark_tuning.measuring.drafters.figures import DrafterFigures, figures
from sglang_dspark.drafter.rounds import OfflineRounds
from sglang_dspark.files import write_atomically

FIGURES = "figures.json"
ACCEPTANCE = "acceptance.yaml"
STS = "sts.json"
REPORT = "report.html"


class Evaluation(NamedTuple):
    """The results.

    Attributes:
        head: Calibration of the confidence head by temperature; None without a head or with too few rounds.
        fit: The acceptance model, from the first temperature's rounds; None without a confidence head.
    """

    target: str
    draft: str
    family: str
    gamma: int
    figures: list[DrafterFigures]
    head: dict[float, ConfidenceCalibration | None]
    fit: AcceptanceFit | None


def evaluate(
    rounds: Mapping[float, Mapping[str, OfflineRounds]], target: str, draft: str, family: str, gamma: int
) -> Evaluation:
    """Evaluate rounds by temperature and data set.

    Args:
        rounds: By temperature and data set.
        target: The target's name.
        draft: The draft's name.
        family: The draft's architecture.
        gamma: Drafts of a block.
    """
    joined = {temperature: _join(sets, gamma) for temperature, sets in rounds.items()}
    head = {temperature: calibrate(each) for temperature, each in joined.items()}
    rows = [row for temperature, each in joined.items() for row in figures(each, temperature)]
    fit = None
    for temperature, each in joined.items():
        calibration = head[temperature]
        if calibration is not None:
            source = f"rounds played offline at temperature {temperature:g}"
            fit = acceptance_fit.fit(each, calibration.temperatures, target, draft, source)
            break
    return Evaluation(target, draft, family, gamma, rows, head, fit)


def write(evaluated: Evaluation, folder: Path, page: str) -> list[Path]:
    """Write figures and page and, for a drafter with a confidence head, STS temperatures and acceptance model."""
    texts = {FIGURES: json.dumps(plain(evaluated), indent=1, sort_keys=True) + "\n", REPORT: page}
    if evaluated.fit is not None:
        content = evaluated.fit.model.model_dump(mode="json")
        texts[ACCEPTANCE] = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
        head = next(head for head in evaluated.head.values() if head is not None)
        texts[STS] = temperatures(head, "dspark eval")
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def plain(evaluated: Evaluation) -> dict[str, object]:
    """Convert the figures to JSON values, with NaN as null."""
    return {
        "target": evaluated.target,
        "draft": evaluated.draft,
        "family": evaluated.family,
        "gamma": evaluated.gamma,
        "figures": [
            {
                "dataset": each.dataset,
                "temperature": each.temperature,
                "requests": each.requests,
                "rounds": each.rounds,
                "accepted_length": _number(each.accepted_length),
                "acceptance": [_number(estimated) for estimated in each.acceptance],
                "judged": each.judged,
                "sweep": [{k: _number(v) for k, v in swept._asdict().items()} for swept in each.sweep],
            }
            for each in evaluated.figures
        ],
        "confidence": [
            {
                "temperature": temperature,
                "sts": _number(head.temperatures),
                "ece_raw": _number(head.ece_before),
                "ece_sts": _number(head.ece_after),
                "roc_auc": _number(head.auc),
            }
            for temperature, head in evaluated.head.items()
            if head is not None
        ],
    }


def _number(value: object) -> object:
    if isinstance(value, tuple | list | np.ndarray):
        return [_number(item) for item in value]
    assert isinstance(value, float | np.floating)
    return round(float(value), 4) if np.isfinite(value) else None


def _join(sets: Mapping[str, OfflineRounds], gamma: int) -> Rounds:
    """Concatenate data sets as the classes of :class:`Rounds`, in which every draft was verified."""
    offsets = np.cumsum([0, *(int(each.request.max(initial=-1)) + 1 for each in sets.values())])
    accepted = np.concatenate([each.accepted for each in sets.values()])
    return Rounds(
        tuple(sets),
        np.concatenate([np.full(len(each.accepted), place) for place, each in enumerate(sets.values())]),
        np.concatenate([each.request + offset for each, offset in zip(sets.values(), offsets, strict=False)]),
        np.full(len(accepted), gamma),
        accepted,
        np.concatenate([each.confidence_logits for each in sets.values()]).astype(np.float64),
    )
