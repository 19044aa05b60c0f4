"""Step times of a deployment: a measured curve, an SPS table of SGLang, or the roofline of its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

from dspark_simulator.costs import Cost, sps_additive
from dspark_simulator.costs.base import Experts as LiveExperts
from dspark_simulator.costs.base import GridCurve
from dspark_simulator.costs.curve import CurveCost, Measurements
from dspark_simulator.costs.roofline import RooflineCost
from dspark_simulator.costs.table import TableCost
from dspark_tuning.measuring.validate import parameters
from dspark_tuning.measuring.validate.lookup import gpu, shapes
from dspark_tuning.measuring.validate.parameters import ParameterSpace
from dspark_tuning.measuring.validate.published_rows import PublishedRow
from sglang_dspark.policy import CostBelief
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS, SpsTable
from sglang_dspark.shapes.known import known

Measured: TypeAlias = Measurements | SpsTable | None
Values: TypeAlias = Mapping[str, float]

PROFILED_CONTEXT = 8192
MEMORY_FRACTION = 0.85
# Active / routed experts of DeepSeek-V4, for unknown models.
USUAL_EXPERT_SHARE = 6 / 256


class Filled(NamedTuple):
    """Fields of a row with the blank ones filled.

    Attributes:
        assumed: The filled fields, for the report.
    """

    gamma: int
    tp: int
    capture_tokens: int
    output_tokens: int
    assumed: tuple[str, ...]


class Steps(ABC):
    """Source of the step times of a deployment; ``values`` are quantities of ``parameters`` by name."""

    name: str

    @abstractmethod
    def check(self, row: PublishedRow) -> None:
        """Raise an InputError if the step times of the row are unknown."""

    def possible_tp(self, row: PublishedRow) -> list[int]:
        """Possible numbers of GPUs of a row, fewest first."""
        return [row.tp or 1]

    @abstractmethod
    def space(self, row: PublishedRow, arms: Collection[str]) -> ParameterSpace:
        """Quantities of the deployment; free are those that rows of ``arms`` inform."""

    @abstractmethod
    def live(self, row: PublishedRow, filled: Filled, values: Values) -> Cost:
        """Live step times of the row's server."""

    @abstractmethod
    def belief(self, row: PublishedRow, filled: Filled, values: Values) -> CostBelief:
        """Profiled step times that an adaptive arm plans with."""


class Roofline(Steps):
    """Roofline of the model shape."""

    name = "the roofline of its shape"

    def check(self, row: PublishedRow) -> None:
        shapes(row)

    def possible_tp(self, row: PublishedRow) -> list[int]:
        """The stated number, or the powers of two that hold the weights."""
        if row.tp is not None:
            return [row.tp]
        weights, memory = shapes(row).model.weight_bytes(), gpu(row).memory_bytes
        return [tp for tp in (1, 2, 4, 8) if weights < MEMORY_FRACTION * tp * memory] or [8]

    def space(self, row: PublishedRow, arms: Collection[str]) -> ParameterSpace:
        return parameters.roofline_space(shapes(row).model, gpu(row), arms)

    def live(self, row: PublishedRow, filled: Filled, values: Values) -> Cost:
        return self.profiled(row, filled, values).model_copy(update=_host(values))

    def belief(self, row: PublishedRow, filled: Filled, values: Values) -> CostBelief:
        return _additive(self.profiled(row, filled, values), filled)

    def profiled(self, row: PublishedRow, filled: Filled, values: Values) -> RooflineCost:
        """Roofline of the kernels, without host overhead."""
        known_shapes = shapes(row)
        scale = values.get("scale", 1.0)
        # With a measured curve the roofline gives only the small parts, at the centres of their priors.
        quantities = {
            name: values.get(name, p.centre) for name, p in parameters.roofline(known_shapes.model, gpu(row)).items()
        }
        return RooflineCost.model_validate(
            {
                "kind": "roofline",
                "gpu": row.hardware,
                "tp": filled.tp,
                "model": known_shapes.model,
                "draft": known_shapes.assumed_draft,
                "layer_s": quantities["layer_s"] * scale,
                "eager_layer_s": quantities["eager_layer_s"] * scale,
                "bandwidth_efficiency": min(quantities["bandwidth_efficiency"] / scale, 1.0),
                "flops_efficiency": min(quantities["flops_efficiency"] / scale, 1.0),
                "overhead_s": 0.0,
                "request_s": 0.0,
            }
        )


class Curve(Roofline):
    """A measured curve; parts that a profile of decode steps lacks come from the roofline."""

    name = "a measured curve"

    def __init__(self, measured: Measurements) -> None:
        self.measured = measured

    def space(self, row: PublishedRow, arms: Collection[str]) -> ParameterSpace:
        return parameters.curve_space(shapes(row).model, gpu(row), arms)

    def live(self, row: PublishedRow, filled: Filled, values: Values) -> Cost:
        changed: dict[str, Any] = _host(values)
        if "experts_s" in values:
            share = shapes(row).model.active_share()
            changed["experts"] = LiveExperts(seconds=values["experts_s"], share=share)
        return self._curve(row, filled, values).model_copy(update=changed)

    def belief(self, row: PublishedRow, filled: Filled, values: Values) -> CostBelief:
        return _additive(self._curve(row, filled, values), filled)

    def _curve(self, row: PublishedRow, filled: Filled, values: Values) -> CurveCost:
        parts = self.profiled(row, filled, values).tabulate()[0]
        return CurveCost(
            kind="curve",
            curve=self.measured,
            profiled_context=PROFILED_CONTEXT,
            context_s_per_token=float(parts["context_s_per_token"]),
            prefill_context_s=float(parts["prefill_context_s"]),
            inject_s_per_token=float(parts["inject_s_per_token"]),
        )


class Table(Steps):
    """A table of whole steps, for any model and hardware, which the planner looks up as SGLang does.

    A profile with dummy tokens, which all route alike, lacks most expert reads. The model is assumed to be a mixture of
    experts, and live steps determine the time of these reads.
    """

    name = "an SPS table"

    def __init__(self, table: SpsTable) -> None:
        self.table = table

    def check(self, row: PublishedRow) -> None:
        pass

    def space(self, row: PublishedRow, arms: Collection[str]) -> ParameterSpace:
        return parameters.table_space(1 / self.table.sample_steps_per_sec[0], arms)

    def live(self, row: PublishedRow, filled: Filled, values: Values) -> Cost:
        known_shapes = known(row.model)
        share = known_shapes.model.active_share() if known_shapes else USUAL_EXPERT_SHARE
        experts = LiveExperts(seconds=values["experts_s"], share=share)
        return TableCost(kind="table", table=self.table, experts=experts, prefill=_prefill(row), **_host(values))

    def belief(self, row: PublishedRow, filled: Filled, values: Values) -> CostBelief:
        return self.table


def steps_of(measured: Measured) -> Steps:
    """Step times from a measurement; the roofline without one."""
    if isinstance(measured, SpsTable):
        return Table(measured)
    return Roofline() if measured is None else Curve(measured)


def _host(values: Values) -> dict[str, Any]:
    novelty = values.get("draft_novelty", 1.0)
    return {"overhead_s": values["overhead_s"], "request_s": values["request_s"], "draft_novelty": novelty}


def _prefill(row: PublishedRow) -> GridCurve | None:
    """Prefill of decoding sweeps, which time decode steps only: free."""
    return None if row.context_tokens is None else GridCurve(tokens=(1,), seconds=(0.0,))


def _additive(cost: RooflineCost | CurveCost, filled: Filled) -> CostBelief:
    return sps_additive(cost.tabulate(filled.gamma), MAX_REQUESTS, MAX_TOKENS)
