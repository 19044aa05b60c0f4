"""Recorded step times compared with the cost model of a scenario."""

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
    """Measured and modelled time of one cell of steps.

    Attributes:
        tokens: Verify tokens, with padding.
        context: Context tokens of all requests together.
        measured_s: Median step time.
        modelled_s: Step time of the scenario, at the centre of its live range.
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
        """Relative error of the model."""
        return self.modelled_s / self.measured_s - 1


def model_errors(decoded: pd.DataFrame, scenario: Scenario, gamma: int) -> list[ModelError]:
    """Errors of the scenario's cost model for every cell with enough recorded steps.

    Args:
        decoded: See :func:`dspark_tuning.measuring.calibrate.step_cells.decodes`.
        gamma: Block size of the recorded server.
    """
    cost = scenario.live_steps(gamma, scenario.live.centre())
    errors = []
    for cell in cells(decoded).to_dict("records"):
        if cell["steps"] < LEAST_STEPS:
            continue
        requests, tokens, context = (int(cell[name]) for name in ("requests", "tokens", "context"))
        modelled_s = host_s(cost, requests, True) + inject_s(cost, tokens)
        modelled_s += verify_s(cost, tokens, bool(cell["captured"]), context, requests)
        if cell["drafted"]:
            modelled_s += draft_s(cost, requests)
        kind = requests, tokens, bool(cell["drafted"]), context
        errors.append(ModelError(*kind, int(cell["steps"]), float(cell["step_s"]), modelled_s))
    return errors


def error_quantiles(cells: list[ModelError]) -> tuple[float, float]:
    """Median and 90th percentile of the absolute relative errors; NaN without cells."""
    errors = [abs(cell.error) for cell in cells]
    return (float(np.median(errors)), float(np.quantile(errors, 0.9))) if errors else (np.nan, np.nan)


def measured(scenario: Scenario, profile: Profile, name: str) -> str:
    """YAML of a scenario with the recorded step times; traffic, memory and acceptance remain."""
    content = scenario.model_dump(mode="json", exclude_unset=True) | {
        "name": name,
        "description": f"{scenario.name} with the step times of a recording on {profile.hardware}.",
        "hardware": profile.hardware,
        "cost": profile.cost.model_dump(mode="json", exclude_none=True),
        "live": profile.live.model_dump(mode="json"),
    }
    return yaml.safe_dump(content, sort_keys=False, width=120)
