"""What scenarios and calibrated profiles have in common: how live steps differ from believed ones, and the KV pool."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator import draws

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Truth(NamedTuple):
    """How the live step differs from the believed one: ``overhead_s`` more a step, verify time times ``slope``."""

    overhead_s: float = 0.0
    slope: float = 1.0


class Live(BaseModel):
    """The distribution of truths around the belief, uniform and independent in both parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    overhead_s: tuple[Seconds, Seconds] = (0.0, 0.0)
    slope: tuple[Factor, Factor] = (1.0, 1.0)

    @model_validator(mode="after")
    def _ordered(self) -> Live:
        for name, (low, high) in (("overhead_s", self.overhead_s), ("slope", self.slope)):
            if low > high:
                raise ValueError(f"{name} goes from {low} down to {high}; give the lower end first")
        return self

    def centre(self) -> Truth:
        """The middle of the distribution."""
        return Truth(sum(self.overhead_s) / 2, sum(self.slope) / 2)

    def draw(self, seed: int) -> Truth:
        """The truth of ``seed``."""
        u, v = (draws.uniform_of(seed, 0, i, draws.TRUTH) for i in range(2))
        (low_s, high_s), (low, high) = self.overhead_s, self.slope
        return Truth(low_s + u * (high_s - low_s), low + v * (high - low))


class Memory(BaseModel):
    """KV pool of a replica in tokens.

    Attributes:
        kv_tokens: With the drafter loaded, its own KV taken into account.
        kv_tokens_without_draft: Of the same server without speculation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kv_tokens: Annotated[int, Field(ge=1)]
    kv_tokens_without_draft: Annotated[int, Field(ge=1)]
