"""Remarks on a scenario, which commands print before they simulate it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspark_simulator.plausibility import Warned
    from dspark_simulator.scenario import Scenario


def warn(scenario: Scenario, source: str, besides: tuple[str, ...] = ()) -> list[Warned]:
    """Print a line on stderr for each value of a scenario that cannot be meant; returns them.

    Args:
        source: Where the scenario was read.
        besides: Starts of fields that are not checked.
    """
    from dspark_simulator.plausibility import warnings

    warned = [one for one in warnings(scenario) if not one.field.startswith(besides)]
    for one in warned:
        print(f"dspark: warning: {source}: {one}", file=sys.stderr)
    return warned
