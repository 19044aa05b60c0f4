"""Cost models: how long an engine step takes. The members of the family, and the record that they tabulate to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dspark_simulator.costs.base import CostModel
from dspark_simulator.costs.belief import sps_additive
from dspark_simulator.costs.curve import CurveCost
from dspark_simulator.costs.numeric import COST, CostRecord, live
from dspark_simulator.costs.roofline import RooflineCost
from dspark_simulator.costs.table import TableCost

Cost = Annotated[TableCost | CurveCost | RooflineCost, Field(discriminator="kind")]

__all__ = ["COST", "Cost", "CostModel", "CostRecord", "CurveCost", "RooflineCost", "TableCost", "live", "sps_additive"]
