"""The policies that the page compares: named arms and policy files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_tuning.search import named_arms
from dspark_tuning.search.artifact import Searched, artifact_of
from dspark_tuning.search.space import Space
from sglang_dspark.errors import InputError
from sglang_dspark.policy.artifact import Artifact

NAMES: Final = ("default", "plain", "argmax", "aligned", "greedy", "static-0.3", "fixed-1", "fixed-3", "oracle")


def arm(text: str, scenario: Scenario) -> Arm:
    """The arm of a name or of the path of a policy file.

    Raises:
        InputError: No such arm, or a policy file that does not fit the scenario.
    """
    text = text.strip()
    if not text.endswith(".json"):
        try:
            return named_arms.named(text, scenario)
        except InputError as error:
            raise InputError(f"{error}, or the path of a policy.json") from error
    return named_arms.tuned(Path(text), scenario)


def artifact_for(scenario: Scenario, chosen: Arm) -> Artifact:
    """The arm as a policy file, without evidence.

    Raises:
        InputError: The arm is the step oracle, which is no policy.
    """
    if chosen.oracle:
        raise InputError("the step oracle knows what will be accepted and is no policy; choose another to export")
    none = Searched("throughput", 0, {})
    advice = f"'{chosen.name}' was chosen by hand; `dspark tune` measures its gain."
    return artifact_of(scenario, Space(scenario, {}), chosen, none, pd.DataFrame(), advice)
