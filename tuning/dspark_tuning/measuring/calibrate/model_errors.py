"""Recorded step times beside what a scenario's own cost model says of the same steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from dspark_simulator.costs.numeric import draft_s, host_s, inject_s, verify_s
from dspark_simulator.profile import Profile
from dspark_simulator.scenario import Scenario
from dspark_tuning.measuring.calibrate.step_cells import cells

LEAST_STEPS = 5


class ModelError(NamedTuple):
    """Steps of a kind.

    Attributes:
        tokens: Of the verification, with padding.
        context: Of all requests together.
        measured_s: Median.
        modelled_s: By the scenario, at the middle of its live steps.
    """

    requests: int
    tokens: int
    drafted: bool
    context: int
    steps: int
    measured_s: float
    modelled_s: float

    @property
    def error(self) -> float:
        """Of the model, relative to the measurement."""
        return self.modelled_s / self.measured_s - 1


def model_errors(decoded: pd.DataFrame, scenario: Scenario, gamma: int) -> list[ModelError]:
    """Every kind of recorded steps that has several.

    Args:
        decoded: As ``step_cells.decodes`` makes them.
        gamma: Drafts of the recorded server's block.
    """
    cost = scenario.live_steps(gamma, scenario.live.centre())
    found = []
    for cell in cells(decoded).to_dict("records"):
        if cell["steps"] < LEAST_STEPS:
            continue
        requests, tokens, context = (int(cell[name]) for name in ("requests", "tokens", "context"))
        modelled_s = host_s(cost, requests, True) + inject_s(cost, tokens)
        modelled_s += verify_s(cost, tokens, bool(cell["captured"]), context, requests)
        if cell["drafted"]:
            modelled_s += draft_s(cost, requests)
        kind = requests, tokens, bool(cell["drafted"]), context
        found.append(ModelError(*kind, int(cell["steps"]), float(cell["step_s"]), modelled_s))
    return found


def error_quantiles(found: list[ModelError]) -> tuple[float, float]:
    """Median and 90th percentile of the relative errors, whatever their sign; NaN where there is no cell."""
    errors = [abs(cell.error) for cell in found]
    return (float(np.median(errors)), float(np.quantile(errors, 0.9))) if errors else (np.nan, np.nan)


def measured(scenario: Scenario, profile: Profile, name: str) -> str:
    """The scenario's YAML with the recorded step times in place of its own; traffic, memory and acceptance stay."""
    content = scenario.model_dump(mode="json", exclude_unset=True) | {
        "name": name,
        "description": f"{scenario.name} with the step times of a recording on {profile.hardware}.",
        "hardware": profile.hardware,
        "cost": profile.cost.model_dump(mode="json", exclude_none=True),
        "live": profile.live.model_dump(mode="json"),
    }
    return yaml.safe_dump(content, sort_keys=False, width=120)
