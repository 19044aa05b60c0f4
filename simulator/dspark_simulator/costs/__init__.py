"""Cost models: how long an engine step takes.

A new model is a file here with a subclass of :class:`CostModel`, and a member of ``Cost``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dspark_simulator.costs.base import ComputedFrom, CostModel
from dspark_simulator.costs.belief import sps_additive
from dspark_simulator.costs.curve import CurveCost
from dspark_simulator.costs.numeric import COST, CostRecord, live
from dspark_simulator.costs.roofline import RooflineCost
from dspark_simulator.costs.table import TableCost

Cost = Annotated[TableCost | CurveCost | RooflineCost, Field(discriminator="kind")]

__all__ = [
    "COST",
    "ComputedFrom",
    "Cost",
    "CostModel",
    "CostRecord",
    "CurveCost",
    "RooflineCost",
    "TableCost",
    "live",
    "sps_additive",
]
