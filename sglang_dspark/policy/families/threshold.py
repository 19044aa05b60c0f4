"""A survival threshold that depends on the load."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from sglang_dspark.jit import njit
from sglang_dspark.policy.families.base import Length, Policy
from sglang_dspark.policy.record import MAX_CLASSES, MAX_KNOTS, Rule, write_scores

Requests = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Threshold(Policy):
    """Counts the drafts whose lagged score reaches ``theta(running requests)``.

    Attributes:
        running: Running requests at which ``theta`` is given, strictly increasing.
        theta: Threshold at each of them; between them it is linear in log2 of the running requests.
        weight: Score multiplier by class index.
        price_per_token: A draft of a request with ``context`` tokens costs ``1 + price_per_token * context``.
        min_length: Drafts that every request may verify, at any survival.
        max_length: Most drafts a request may verify; the drafter's block bounds it too.
        fill: Raise the budget to the captured tier that the step is padded to anyway.
        off_above: Running requests above which nothing is drafted; None never stops drafting.
    """

    family: Literal["threshold"] = "threshold"
    running: tuple[Requests, ...] = Field(min_length=1, max_length=MAX_KNOTS)
    theta: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(min_length=1, max_length=MAX_KNOTS)
    weight: tuple[Weight, ...] = Field(default=(1.0,), min_length=1, max_length=MAX_CLASSES)
    price_per_token: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    min_length: Length = 0
    max_length: Length = 16
    fill: bool = False
    off_above: Requests | None = None

    @field_validator("running")
    @classmethod
    def _increasing(cls, running: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in itertools.pairwise(running)):
            raise ValueError("running requests must strictly increase; sort the knots")
        return running

    @model_validator(mode="after")
    def _fits(self) -> Threshold:
        if len(self.running) != len(self.theta):
            raise ValueError("running and theta differ in length; give one theta per knot")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} exceeds max_length {self.max_length}; lower it")
        return self

    def survival_threshold(self) -> Threshold:
        return self

    def write(self, record: Any) -> None:
        knots = len(self.running)
        record["knots"] = knots
        record["knot_log2"][:knots] = [math.log2(running) for running in self.running]
        record["theta"][:knots] = self.theta
        record["weight"][: len(self.weight)] = self.weight
        record["price_per_token"] = self.price_per_token
        record["max_length"] = min(self.max_length, int(record["max_length"]))
        record["min_length"] = min(self.min_length, int(record["max_length"]))
        record["fill"] = self.fill
        record["off_above"] = math.inf if self.off_above is None else self.off_above

    @staticmethod
    @njit(cache=True)
    def compute_budget(
        rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
    ) -> int:
        record = rule[0]
        requests = survival.shape[0]
        theta = theta_at(record, requests)
        candidates = write_scores(rule, survival, context, slo_class, record.min_length, record.max_length)
        scores = record.keys.view(np.float32)
        drafts = requests * record.min_length
        for i in range(candidates):
            drafts += scores[i] >= theta
        return int(drafts)


@njit(cache=True)
def theta_at(record: Any, requests: int) -> float:
    """The threshold at ``requests`` running: linear in log2 between knots, constant outside them."""
    knots, x, theta = record.knots, record.knot_log2, record.theta
    at = math.log2(requests)
    if at <= x[0]:
        return float(theta[0])
    for i in range(1, knots):
        if at < x[i]:
            share = (at - x[i - 1]) / (x[i] - x[i - 1])
            return float(theta[i - 1] + share * (theta[i] - theta[i - 1]))
    return float(theta[knots - 1])
