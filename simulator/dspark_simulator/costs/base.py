"""Base classes of the cost models: validated descriptions that tabulate to one :data:`COST` record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dspark_simulator.costs.belief import sps_additive
from dspark_simulator.costs.numeric import COST, GRID_POINTS, CostRecord
from sglang_dspark.policy.belief import MAX_GAMMA, MAX_REQUESTS, MAX_TOKENS, CostBelief
from sglang_dspark.shapes.kv_pool import FlagCosts
from sglang_dspark.shapes.model import DraftShape, ModelShape

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Prior range of the share of one request's draft time that is independent of the positions drafted: the rooflines of
# DeepSpec's targets and DeepSeek-V4 on one H200 and on four and eight B300, blocks of 1 to 7.
DRAFT_FIXED: Final = (0.4, 0.75)
DRAFT_FIXED_CENTRE: Final = sum(DRAFT_FIXED) / 2

# A grid holds the points of a measured curve, and for prefill also samples of the captured part before them.
MAX_POINTS = 64
_SAMPLES = GRID_POINTS - MAX_POINTS - 2


class Overhead(BaseModel):
    """Seconds of a step outside its kernels: per step, and per request of the step.

    Attributes:
        overhead_s: Seconds per step.
        request_s: Seconds per request of the step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    overhead_s: Seconds = 0.0
    request_s: Seconds = 0.0


class ComputedFrom(NamedTuple):
    """The shapes that a model computes its step times from.

    Attributes:
        draft: None without speculation.
        tp: Tensor-parallel GPUs.
        gpu: Kind of the GPUs.
    """

    model: ModelShape
    draft: DraftShape | None
    tp: int
    gpu: str


class CostModel(BaseModel, ABC):
    """Base class of the cost models. Members add ``kind: Literal[...]``, the key by which scenarios choose them.

    Attributes:
        overhead_s: Seconds of a step outside its kernels, on a server with speculation.
        request_s: Seconds for each request of the step, likewise.
        plain: Both for a server without speculation; ``overhead_s`` and ``request_s`` if None.
        draft_novelty: Experts that a draft touches and its request's anchor does not, as a share of those that an
            unrelated token would touch. Adjacent tokens are routed to similar experts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    overhead_s: Seconds = 0.0
    request_s: Seconds = 0.0
    plain: Overhead | None = None
    draft_novelty: Share = 1.0

    def measured_tokens(self) -> int | None:
        """Tokens of the largest captured step that was measured; None where step times are computed."""
        return None

    @abstractmethod
    def source(self) -> str:
        """What the step times are, in a few words: "step times ..."."""

    @abstractmethod
    def describe(self) -> str:
        """Sentences that tell a reader where the step times come from."""

    @abstractmethod
    def tabulate(self, gamma: int | None = None, draft_fixed: float = DRAFT_FIXED_CENTRE) -> CostRecord:
        """Tabulate the model: shape (1,), dtype :data:`COST`.

        Args:
            gamma: Positions that the server drafts for each request; the drafter's block if None.
            draft_fixed: Share of one request's draft time that is independent of the positions; ignored by a model that
                computes it from the drafter's shape.
        """

    def planner_table(self, gamma: int, draft_fixed: float) -> CostBelief:
        """Cost table of a stock server with ``gamma``, as SGLang's profiler writes it, plus times of eager steps."""
        return sps_additive(self.tabulate(gamma, draft_fixed), MAX_REQUESTS, MAX_TOKENS)

    def flag_costs(self) -> FlagCosts | None:
        """KV pool memory taken by server flags; None where the shapes are unknown."""
        return None

    def computed_from(self) -> ComputedFrom | None:
        """The shapes behind the step times; None where the times were measured."""
        return None

    def on_gpu(self, gpu: str) -> CostModel | None:
        """The same deployment on another GPU of :data:`sglang_dspark.shapes.gpus.GPUS`.

        None where the times were measured: they hold for the GPU that they were measured on.
        """
        return None

    def with_one_token_draft(self, layers: int) -> Self | None:
        """The same deployment with a draft model of one layer that drafts one token (MTP-1).

        Args:
            layers: Layers of the present draft model.

        Returns:
            None where the draft's part of the step times is unknown.
        """
        return None

    def with_draft_block(self, block: int) -> Self:
        """The model with ``block`` as the positions of its measured draft time, unless it states them itself."""
        return self

    def _empty_record(self) -> CostRecord:
        """A record of zeros except for the overheads."""
        cost = np.zeros(1, COST)
        plain = self.plain or self
        for field in ("overhead_s", "request_s", "draft_novelty"):
            cost[field] = getattr(self, field)
        cost["plain_overhead_s"], cost["plain_request_s"] = plain.overhead_s, plain.request_s
        return cost


class TokenCurve(BaseModel):
    """Measured seconds by tokens of a step.

    Attributes:
        tokens: Sizes of the measured steps in tokens, increasing.
        seconds: Seconds of a step of each size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: tuple[Count, ...] = Field(min_length=1)
    seconds: tuple[Seconds, ...] = Field(min_length=1)

    @field_validator("tokens")
    @classmethod
    def _increasing(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return _strictly_increasing(tokens)

    @model_validator(mode="after")
    def _paired(self) -> Self:
        _one_time_each("tokens", self.tokens, self.seconds)
        return self


class GridCurve(TokenCurve):
    """A token curve of at most MAX_POINTS points, the capacity of a record's grids."""

    tokens: tuple[Count, ...] = Field(min_length=1, max_length=MAX_POINTS)


class RequestCurve(BaseModel):
    """Measured seconds by requests of a step.

    Attributes:
        requests: Sizes of the measured steps in requests, increasing.
        seconds: Seconds of a step of each size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    requests: tuple[Count, ...] = Field(min_length=1)
    seconds: tuple[Seconds, ...] = Field(min_length=1)

    @field_validator("requests")
    @classmethod
    def _increasing(cls, requests: tuple[int, ...]) -> tuple[int, ...]:
        return _strictly_increasing(requests)

    @model_validator(mode="after")
    def _paired(self) -> Self:
        _one_time_each("requests", self.requests, self.seconds)
        return self


class Experts(BaseModel):
    """Routed experts that live text reads and a profile with dummy tokens, all routed alike, did not.

    Attributes:
        seconds: Seconds to read all of them.
        share: Share of them that one token touches: active / routed experts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    seconds: Seconds
    share: Share


class MeasuredCost(CostModel):
    """A model from measured decode steps, plus the costs that a profile of decode steps does not contain.

    Attributes:
        inject_s_per_token: Seconds of hidden-state capture and KV injection for one processed token.
        context_s_per_token: Seconds of decode attention over one context token.
        profiled_context: Context tokens that each request held in the profile.
        draft_block: Positions drafted for each request in the profile; if None, a scenario sets it to its drafter's
            block.
        prefill_context_s: Seconds of prefill attention of one new token over one context token.
        experts: Expert reads that are missing from the profile of a mixture of experts.
        prefill: Prefill time by new tokens. Without it, a chunk costs the same as a verify step of as many tokens:
            captured up to the largest captured measurement, eager beyond it.
    """

    inject_s_per_token: Seconds = 0.0
    context_s_per_token: Seconds = 0.0
    profiled_context: int = Field(default=0, ge=0)
    draft_block: Annotated[int, Field(ge=1, le=MAX_GAMMA)] | None = None
    prefill_context_s: Seconds = 0.0
    experts: Experts | None = None
    prefill: GridCurve | None = None

    def describe(self) -> str:
        given = (self.overhead_s, self.inject_s_per_token, self.context_s_per_token, self.prefill_context_s)
        added = (
            " What such measurements leave out (overhead, attention over the context, injection into the drafter) is "
            "added at rates that the scenario gives."
        )
        return self._describe_measurements() + (added if any(given) else "")

    @abstractmethod
    def _describe_measurements(self) -> str:
        """A sentence that names the measurements."""

    def with_draft_block(self, block: int) -> Self:
        return self if self.draft_block is not None else self.model_copy(update={"draft_block": block})

    def _drafting_s(self, profiled_s: Floats, gamma: int | None, draft_fixed: float) -> Floats:
        """Draft time by requests at ``gamma`` positions each.

        A share ``draft_fixed`` of one request's time is fixed: weights and launches of the backbone's pass. The rest
        (serial head steps, and the part that grows with requests) is proportional to the positions.

        Args:
            profiled_s: [MAX_REQUESTS + 1], at ``draft_block`` positions.
        """
        if gamma is None or self.draft_block is None:
            return profiled_s
        fixed_s = draft_fixed * profiled_s[1]
        return np.asarray(fixed_s + gamma / self.draft_block * (profiled_s - fixed_s), np.float64)

    def _record(self, captured_s: Floats, last_captured: int, eager: GridCurve | None, draft_s: Floats) -> CostRecord:
        """A record from dense curves.

        Args:
            captured_s: [MAX_TOKENS + 1], by tokens.
            last_captured: Largest captured step that was measured, in tokens; ``captured_s`` is extrapolated beyond it.
            eager: Eager steps; None where the measurements do not distinguish them from captured ones.
            draft_s: [MAX_REQUESTS + 1], by requests.
        """
        cost = self._empty_record()
        cost["captured_s"][0] = captured_s
        if self.experts is not None:
            cost["experts_s"], cost["expert_share"] = self.experts.seconds, self.experts.share
        cost["draft_s"][0] = draft_s
        cost["inject_s_per_token"] = self.inject_s_per_token
        cost["context_s_per_token"] = self.context_s_per_token
        cost["profiled_context"] = self.profiled_context
        cost["prefill_context_s"] = self.prefill_context_s
        last_captured = min(last_captured, MAX_TOKENS)
        if eager is None:
            eager_s, eager_at = captured_s, spaced(MAX_TOKENS)
        else:
            eager_s, eager_at = dense(eager.tokens, eager.seconds, MAX_TOKENS), _ended(eager.tokens)
        if self.prefill is not None:
            prefill_s, prefill_at = (
                dense(self.prefill.tokens, self.prefill.seconds, MAX_TOKENS),
                _ended(self.prefill.tokens),
            )
        elif eager is None:
            prefill_s, prefill_at = captured_s, eager_at
        else:
            prefill_s = np.where(np.arange(MAX_TOKENS + 1) <= last_captured, captured_s, eager_s)
            # The curve jumps from captured to eager steps, so both sides of the jump are points.
            jump = np.append(spaced(last_captured), min(last_captured + 1, MAX_TOKENS))
            prefill_at = np.union1d(jump, eager_at[eager_at > last_captured])
        fill_grid(cost, "eager", eager_at, eager_s)
        fill_grid(cost, "prefill", prefill_at, prefill_s)
        return cost

    def _check_context(self, one_token_s: float) -> None:
        attention_s = self.profiled_context * self.context_s_per_token
        if attention_s > one_token_s:
            raise ValueError(
                f"profiled_context x context_s_per_token is {attention_s:.3g} s, more than the {one_token_s:.3g} s of "
                "the one-token step that contains it; lower one of the two"
            )


def _strictly_increasing(counts: tuple[int, ...]) -> tuple[int, ...]:
    for before, after in pairwise(counts):
        if after <= before:
            raise ValueError(f"counts must strictly increase, but {after} follows {before}; sort the measurements")
    return counts


def _one_time_each(name: str, counts: tuple[int, ...], seconds: tuple[float, ...]) -> None:
    if len(counts) != len(seconds):
        raise ValueError(f"{name} has {len(counts)} entries but seconds has {len(seconds)}; give one time for each")


def dense(counts: Sequence[int], seconds: Sequence[float], last: int) -> Floats:
    """A measured curve at 0..last: linear between points and constant before the first.

    Beyond the last point it is extrapolated with the mean slope of its upper half: the last two points of a measured
    curve are too noisy to give a slope.
    """
    at = np.arange(last + 1, dtype=np.float64)
    curve: Floats = np.interp(at, counts, seconds)
    end = counts[-1]
    half = max(int(np.searchsorted(counts, end / 2, side="right")) - 1, 0)
    if counts[half] < end < last:
        slope = max((seconds[-1] - seconds[half]) / (end - counts[half]), 0.0)
        curve[end:] += slope * (at[end:] - end)
    return curve


def spaced(last: int) -> Counts:
    """Geometrically spaced token counts 1..last, at which a dense curve is sampled for a grid."""
    return np.unique(np.geomspace(1, last, _SAMPLES).round().astype(np.int64))


def fill_grid(cost: CostRecord, grid: Literal["eager", "prefill"], at: Counts, curve_s: Floats) -> None:
    """Write a grid of ``cost``: the points ``at`` (ascending, at most GRID_POINTS) of a dense curve."""
    points = len(at)
    cost[f"{grid}_tokens"][0, :points] = at
    cost[f"{grid}_at_s"][0, :points] = curve_s[at]
    cost[f"{grid}_points"] = points


def _ended(tokens: tuple[int, ...]) -> Counts:
    """Measured token counts up to MAX_TOKENS, and MAX_TOKENS itself."""
    counts = np.asarray(tokens, np.int64)
    return np.append(counts[counts < MAX_TOKENS], MAX_TOKENS)
