"""Physical quantities that are calibrated on published results, each with a prior.

A row has few figures and does not determine most quantities: the priors hold plausible values, and the fit moves the
quantities that the rows inform. Sources of the priors: the published B300 step curve and the live runs beside it
(vllm-project/vllm-project.github.io#296), the ablation of adaptive steps on MI355X before they trim anything
(vllm-project/vllm#52362: 6.0 to 6.6 % of throughput), data sheets, what engines reach of them as a rule, and the six
deployments on which the efficiencies were fitted, whose drafters came out 0.8 to 1.3 logits below the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from sglang_dspark.shapes import efficiencies
from sglang_dspark.shapes.gpus import Gpu
from sglang_dspark.shapes.model import ModelShape


class Parameter(NamedTuple):
    """A quantity with its prior.

    Attributes:
        centre: Mode of the prior.
        spread: Standard deviation of the prior, of the logarithm unless ``linear``.
        neutral: The value without effect.
        meaning: Description with the unit.
        linear: Whether the prior is normal instead of log-normal.
        most: Upper bound.
    """

    centre: float
    spread: float
    neutral: float
    meaning: str
    linear: bool = False
    most: float = math.inf

    def at(self, z: float) -> float:
        """Value ``z`` standard deviations from the centre."""
        value = self.centre + self.spread * z if self.linear else self.centre * math.exp(self.spread * z)
        return min(value, self.most)


EVERYWHERE: Final[dict[str, Parameter]] = {
    "overhead_s": Parameter(efficiencies.OVERHEAD_S, 0.7, 0.0, "host time of a step that no kernel hides, seconds"),
    "request_s": Parameter(efficiencies.REQUEST_S, 0.7, 0.0, "host time of a step for each running request, seconds"),
    "quality": Parameter(
        -1.0, 0.3, 0.0, "quality of the drafter relative to that of the paper on the same text, logits", linear=True
    ),
    "prompt_tokens": Parameter(200.0, 0.5, 500.0, "mean prompt length, which is not published, tokens"),
    "prompt_sigma": Parameter(1.0, 0.25, 0.01, "standard deviation of the logarithm of the prompt length"),
}
MIXTURE: Final[dict[str, Parameter]] = {
    "draft_novelty": Parameter(
        0.4, 0.7, 1.0, "experts that a draft adds to its anchor's, as a share of what unrelated text adds", most=1.0
    ),
}
ROCM: Final[dict[str, Parameter]] = {
    "ragged_slope": Parameter(1.065, 0.02, 1.0, "an adaptive step over a fixed one of its size, ROCm's ragged path"),
}
CURVE_MIXTURE: Final[dict[str, Parameter]] = {
    "experts_s": Parameter(5e-3, 0.7, 0.0, "reading the experts that a profile's dummy tokens leave alone, seconds"),
}
SCALE: Final[dict[str, Parameter]] = {
    "scale": Parameter(1.0, 0.3, 1.0, "all step times over the roofline at the usual efficiencies"),
}


def roofline(model: ModelShape, gpu: Gpu) -> dict[str, Parameter]:
    """Quantities of a roofline, with priors around the usual efficiencies (``shapes.efficiencies``)."""
    usual = efficiencies.of(model, gpu)
    return {
        "layer_s": Parameter(usual.layer_s, 0.7, 0.0, "latency of a captured layer besides its work, seconds"),
        "eager_layer_s": Parameter(usual.eager_layer_s, 0.3, 0.0, "host time to launch a layer eagerly, seconds"),
        "bandwidth_efficiency": Parameter(
            usual.bandwidth_efficiency, 0.25, 1.0, "reached share of the memory bandwidth", most=1.0
        ),
        "flops_efficiency": Parameter(usual.flops_efficiency, 0.5, 1.0, "reached share of the matrix rate", most=1.0),
    }


class ParameterSpace(NamedTuple):
    """Quantities of a deployment.

    Attributes:
        quantities: All quantities by name.
        free: Names of the fitted quantities, in a fixed order; the others keep their centres.
        removed: Names of the quantities that are set to their neutral values.
    """

    quantities: Mapping[str, Parameter]
    free: tuple[str, ...]
    removed: frozenset[str] = frozenset()

    def values(self, z: Mapping[str, float] | None = None) -> dict[str, float]:
        """Values of all quantities, the free ones ``z`` standard deviations from their centres."""
        z = z or {}
        return {
            name: p.neutral if name in self.removed else p.at(z.get(name, 0)) for name, p in self.quantities.items()
        }

    def without(self, name: str) -> ParameterSpace:
        """The space with one quantity at its neutral value."""
        return ParameterSpace(self.quantities, tuple(n for n in self.free if n != name), self.removed | {name})


def roofline_space(model: ModelShape, gpu: Gpu, arms: Collection[str]) -> ParameterSpace:
    """Quantities of a deployment with roofline step times; free are those that its rows inform.

    Args:
        arms: Arms of the rows of the calibration; empty without rows.
    """
    relevant = EVERYWHERE | roofline(model, gpu) | (MIXTURE if model.is_mixture else {})
    if len(arms) == 1:
        # One arm does not separate kernel and host times, only their total.
        return _space(relevant, {"quality", "scale"}, gpu.rocm, arms)
    return _space(relevant, set(relevant), gpu.rocm, arms)


def curve_space(model: ModelShape, gpu: Gpu, arms: Collection[str]) -> ParameterSpace:
    """Quantities of a deployment with a measured step curve."""
    relevant = EVERYWHERE | (MIXTURE | CURVE_MIXTURE if model.is_mixture else {})
    return _space(relevant, set(relevant), gpu.rocm, arms)


def table_space(first_s: float, arms: Collection[str]) -> ParameterSpace:
    """Quantities of a deployment with an SPS table.

    Args:
        first_s: Smallest step of the table. Reading all experts took 1.6 times that on the published B300 curve.
    """
    experts = CURVE_MIXTURE["experts_s"]._replace(centre=1.6 * first_s, spread=0.4)
    relevant = EVERYWHERE | MIXTURE | {"experts_s": experts}
    # Decoding sweeps state their prompts.
    return _space(relevant, set(relevant) - {"prompt_tokens", "prompt_sigma"}, False, arms)


def _space(relevant: Mapping[str, Parameter], fitted: set[str], rocm: bool, arms: Collection[str]) -> ParameterSpace:
    every = {**relevant, **(ROCM if rocm else {}), **SCALE}
    if "adaptive" in arms:
        fitted = fitted | set(ROCM)
    return ParameterSpace(every, tuple(name for name in every if name in fitted and arms))
