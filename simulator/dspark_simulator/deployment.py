"""What scenarios and calibrated profiles have in common: how live steps differ from believed ones, and the KV pool."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator import draws
from dspark_simulator.costs.base import DRAFT_FIXED, DRAFT_FIXED_CENTRE

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Truth(NamedTuple):
    """How the live step differs from the believed one.

    Attributes:
        overhead_s: Seconds more a step.
        slope: Factor on verify time.
        draft_fixed: Share of one request's measured draft time that does not grow with the positions drafted.
    """

    overhead_s: float = 0.0
    slope: float = 1.0
    draft_fixed: float = DRAFT_FIXED_CENTRE


class Live(BaseModel):
    """The distribution of truths around the belief, uniform and independent in all parameters.

    Attributes:
        overhead_s, slope, draft_fixed: Lowest and highest, as :class:`Truth` has them. ``draft_fixed`` matters to
            servers that draft another number of positions than the profile did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    overhead_s: tuple[Seconds, Seconds] = (0.0, 0.0)
    slope: tuple[Factor, Factor] = (1.0, 1.0)
    draft_fixed: tuple[Share, Share] = DRAFT_FIXED

    @model_validator(mode="after")
    def _ordered(self) -> Live:
        for name, (low, high) in self:
            if low > high:
                raise ValueError(f"{name} goes from {low} down to {high}; give the lower end first")
        return self

    def centre(self) -> Truth:
        """The middle of the distribution."""
        return Truth(*(sum(ends) / 2 for _, ends in self))

    def draw(self, seed: int) -> Truth:
        """The truth of ``seed``."""
        places = (draws.uniform_of(seed, 0, i, draws.TRUTH) for i in range(len(Truth._fields)))
        return Truth(*(low + place * (high - low) for place, (_, (low, high)) in zip(places, self, strict=True)))


class Memory(BaseModel):
    """KV pool of a replica in tokens.

    Attributes:
        kv_tokens: With the drafter loaded, its own KV taken into account.
        kv_tokens_without_draft: Of the same server without speculation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kv_tokens: Annotated[int, Field(ge=1)]
    kv_tokens_without_draft: Annotated[int, Field(ge=1)]
