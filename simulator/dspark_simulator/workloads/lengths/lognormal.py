"""Lognormally distributed lengths."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dspark_simulator.workloads.lengths.base import Bounded, scaled_tokens
from dspark_simulator.workloads.model import Positive, Tokens
from dspark_simulator.workloads.sampling import FloatArray, IntArray, lognormal_tokens

LARGEST_SIGMA = 3.0


class Lognormal(Bounded):
    """Lognormal lengths, rounded and clamped to ``min .. max``.

    Attributes:
        mean: Mean in tokens before clamping; a bound inside the bulk of the distribution moves it.
        sigma: Standard deviation of the logarithm.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean: Positive
    sigma: Annotated[float, Field(gt=0, le=10)]
    max: Tokens = 1 << 20

    def quantiles(self, u: FloatArray) -> IntArray:
        tokens: IntArray = lognormal_tokens(u, self.mean, self.sigma, self.min, self.max)
        return tokens

    def unlikely(self) -> list[tuple[str, str]]:
        out = []
        if not self.min <= self.mean <= self.max:
            out.append(("mean", f"most lengths are cut to min {self.min} or max {self.max}; widen the bounds"))
        if self.sigma > LARGEST_SIGMA:
            out.append(("sigma", "the standard deviation of the logarithm, not tokens; give 0.3 to 1.5"))
        return out

    def scaled(self, factor: float) -> Lognormal:
        bounds = {"min": scaled_tokens(self.min, factor), "max": scaled_tokens(self.max, factor)}
        return self.model_copy(update={"mean": self.mean * factor, **bounds})
