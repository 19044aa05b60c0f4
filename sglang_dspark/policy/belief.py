"""Cost beliefs of a step: the two table forms that SGLang reads, and their common numeric form.

Both mirror ``sglang.srt.speculative.dspark_components.dspark_sps`` (0.5.23), so what :func:`sps_json` writes is a table
that a stock server takes with ``--speculative-dspark-sps-table-path``. Neither form has the cost of an eager
step; here each may carry it.
"""

from __future__ import annotations

import itertools
import json
import math
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

MAX_REQUESTS = 1024
MAX_GAMMA = 16
MAX_TOKENS = MAX_REQUESTS * (MAX_GAMMA + 1)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1)]


class StepTimes(NamedTuple):
    """A belief in numbers: ``requests_s[R] + tokens_s[m]`` seconds, or ``tokens_s[m]`` steps per second.

    An eager step takes ``requests_s[R] + eager_s[m]`` seconds, and one without a draft ``rest_s[R]`` in place of
    ``requests_s[R]``.

    Attributes:
        requests_s: float64 [MAX_REQUESTS + 1], seconds by running requests.
        tokens_s: float64 [MAX_TOKENS + 1], by verify tokens (anchors included).
        is_rate: ``tokens_s`` holds steps per second. Upstream multiplies by the rate of one form and divides by the
            time of the other, and the last bit of that decides between equal budgets.
        rest_s: float64 [MAX_REQUESTS + 1], seconds by running requests.
        eager_s: float64 [MAX_TOKENS + 1], by verify tokens; None where the belief does not know eager steps.
    """

    requests_s: NDArray[np.float64]
    tokens_s: NDArray[np.float64]
    is_rate: bool
    rest_s: NDArray[np.float64]
    eager_s: NDArray[np.float64] | None


class EagerTimes(BaseModel):
    """Cost of steps beyond the captured graphs. Not SGLang's: its tables are of captured steps.

    Attributes:
        tokens: Verify tokens at which the time is given, strictly increasing; between them it is linear.
        seconds: Seconds in place of what the table gives for a captured step by tokens: ``theta``, or the whole step.
        request_s: The part of ``alpha`` that is not drafting: seconds for each request of a step without a draft.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: tuple[Tokens, ...] = Field(min_length=1)
    seconds: tuple[Positive, ...] = Field(min_length=1)
    request_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @field_validator("tokens")
    @classmethod
    def _increasing(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return _strictly_increasing(tokens)

    @model_validator(mode="after")
    def _fits(self) -> EagerTimes:
        if len(self.tokens) != len(self.seconds):
            raise ValueError("tokens and seconds differ in length; give one time per token count")
        return self

    def by_tokens(self) -> NDArray[np.float64]:
        """float64 [MAX_TOKENS + 1]."""
        return _interpolated(self.tokens, self.seconds, MAX_TOKENS)


class SpsTable(BaseModel):
    """Steps per second by tokens in the step, looked up at the nearest probe below (``SpsCostTable``).

    Attributes:
        sample_batch_tokens: Sizes of the probed steps in tokens, increasing.
        sample_steps_per_sec: Steps per second at each size.
        max_batch_tokens: Tokens of the largest step that the table holds for.
        eager: Times of eager steps; None where they are unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    sample_batch_tokens: tuple[Tokens, ...] = Field(min_length=1)
    sample_steps_per_sec: tuple[Positive, ...] = Field(min_length=1)
    max_batch_tokens: Tokens
    eager: EagerTimes | None = None

    @field_validator("sample_batch_tokens")
    @classmethod
    def _increasing(cls, probes: tuple[int, ...]) -> tuple[int, ...]:
        return _strictly_increasing(probes)

    @model_validator(mode="after")
    def _fits(self) -> SpsTable:
        if len(self.sample_batch_tokens) != len(self.sample_steps_per_sec):
            raise ValueError("sample_batch_tokens and sample_steps_per_sec differ in length; give one rate per probe")
        if self.max_batch_tokens < self.sample_batch_tokens[-1]:
            raise ValueError(
                f"max_batch_tokens {self.max_batch_tokens} is below the largest probe; "
                f"give at least {self.sample_batch_tokens[-1]}"
            )
        return self

    def step_times(self) -> StepTimes:
        probe = np.searchsorted(self.sample_batch_tokens, np.arange(MAX_TOKENS + 1), side="right") - 1
        rates = np.asarray(self.sample_steps_per_sec)[np.maximum(probe, 0)]
        # A rate is of whole steps: what a rest would save of one is unknown.
        none = np.zeros(MAX_REQUESTS + 1)
        return StepTimes(none, rates, True, none, None if self.eager is None else self.eager.by_tokens())


class SpsAdditiveTable(BaseModel):
    """``bias + alpha(requests) + theta(verify tokens)`` seconds, linear between probes (``SpsAdditiveCostTable``).

    Attributes:
        bias_seconds: Seconds of every step.
        bs_probes: Sizes of the probed steps in requests, increasing.
        alpha_seconds: Seconds by requests.
        m_probes: Sizes of the probed steps in verify tokens, increasing.
        theta_seconds: Seconds by verify tokens.
        eager: Times of eager steps; None where they are unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bias_seconds: Positive
    bs_probes: tuple[Tokens, ...] = Field(min_length=1)
    alpha_seconds: tuple[Finite, ...] = Field(min_length=1)
    m_probes: tuple[Tokens, ...] = Field(min_length=1)
    theta_seconds: tuple[Finite, ...] = Field(min_length=1)
    eager: EagerTimes | None = None

    @field_validator("bs_probes", "m_probes")
    @classmethod
    def _increasing(cls, probes: tuple[int, ...]) -> tuple[int, ...]:
        return _strictly_increasing(probes)

    @model_validator(mode="after")
    def _fits(self) -> SpsAdditiveTable:
        if len(self.bs_probes) != len(self.alpha_seconds):
            raise ValueError("bs_probes and alpha_seconds differ in length; give one time per probe")
        if len(self.m_probes) != len(self.theta_seconds):
            raise ValueError("m_probes and theta_seconds differ in length; give one time per probe")
        if self.bias_seconds + min(self.alpha_seconds) + min(self.theta_seconds) <= 0:
            raise ValueError("a step would take no time; bias + alpha + theta must stay above 0")
        return self

    def step_times(self) -> StepTimes:
        alpha = _interpolated(self.bs_probes, self.alpha_seconds, MAX_REQUESTS)
        # Upstream returns the last alpha as it stands (``_interp_clamped``), a bit off what interpolation gives.
        alpha[self.bs_probes[-1] :] = self.alpha_seconds[-1]
        theta = _interpolated(self.m_probes, self.theta_seconds, MAX_TOKENS)
        each_s = 0.0 if self.eager is None else self.eager.request_s
        rest_s = self.bias_seconds + each_s * np.arange(MAX_REQUESTS + 1, dtype=np.float64)
        eager_s = None if self.eager is None else self.eager.by_tokens()
        return StepTimes(self.bias_seconds + alpha, theta, False, rest_s, eager_s)

    def corrected(self, overhead_s: float, slope: float) -> SpsAdditiveTable:
        """The same belief with ``overhead_s`` more seconds a step and verify time scaled by ``slope``."""
        eager = self.eager
        if eager is not None:
            seconds = tuple(slope * eager_s for eager_s in eager.seconds)
            eager = EagerTimes(tokens=eager.tokens, seconds=seconds, request_s=eager.request_s)
        return SpsAdditiveTable(
            bias_seconds=self.bias_seconds + overhead_s,
            bs_probes=self.bs_probes,
            alpha_seconds=self.alpha_seconds,
            m_probes=self.m_probes,
            theta_seconds=tuple(slope * theta for theta in self.theta_seconds),
            eager=eager,
        )


def _form(table: object) -> str:
    """The form of a table: upstream distinguishes them by ``bias_seconds`` (``load_sps_table_from_path``)."""
    if isinstance(table, SpsAdditiveTable) or (isinstance(table, dict) and "bias_seconds" in table):
        return "additive"
    return "floor"


CostBelief = Annotated[
    Annotated[SpsTable, Tag("floor")] | Annotated[SpsAdditiveTable, Tag("additive")], Discriminator(_form)
]


def sps_json(table: SpsTable | SpsAdditiveTable) -> str:
    """The table as a stock SGLang reads it, without eager steps."""
    return json.dumps(table.model_dump(mode="json", exclude={"eager"}))


def _strictly_increasing(probes: tuple[int, ...]) -> tuple[int, ...]:
    for before, after in itertools.pairwise(probes):
        if after <= before:
            raise ValueError(f"token counts must strictly increase, but {after} follows {before}; sort the probes")
    return probes


def _interpolated(probes: tuple[int, ...], values: tuple[float, ...], last: int) -> NDArray[np.float64]:
    """Clamped linear interpolation at 0..last, in upstream's order of operations (``_additive_step_time_tensor``)."""
    if len(probes) == 1:
        return np.full(last + 1, values[0])
    x, y = np.asarray(probes, np.float64), np.asarray(values, np.float64)
    m = np.clip(np.arange(last + 1, dtype=np.float64), x[0], x[-1])
    high = np.clip(np.searchsorted(x, m, side="right"), 1, len(x) - 1)
    low = high - 1
    table: NDArray[np.float64] = y[low] + (m - x[low]) / (x[high] - x[low]) * (y[high] - y[low])
    if not math.isfinite(float(table.sum())):
        raise ValueError("the table interpolates to values that are not finite")
    return table
