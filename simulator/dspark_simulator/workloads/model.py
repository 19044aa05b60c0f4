"""Base class and field types of workload descriptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Described(BaseModel):
    """Immutable data from a scenario file; unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
