"""What is calibrated on published results: physical quantities, each with what is believed of it beforehand.

A result's row is one throughput, so most quantities cannot be read off it; the priors say which values are plausible,
and the fit moves those that the rows speak of. Their sources: the published B300 step curve and the live runs beside it
(vllm-project/vllm-project.github.io#296), the ablation of adaptive steps on MI355X before they trim anything
(vllm-project/vllm#52362: 6.0 to 6.6 % of throughput), data sheets, and what engines reach of them as a rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple


class Parameter(NamedTuple):
    """One quantity.

    Attributes:
        centre: Its most plausible value beforehand.
        spread: Standard deviation around it, of the logarithm unless ``linear``.
        neutral: The value at which it has no effect.
        meaning: In a sentence, with the unit.
        linear: It may be negative.
        most: Its largest possible value.
    """

    centre: float
    spread: float
    neutral: float
    meaning: str
    linear: bool = False
    most: float = math.inf

    def at(self, z: float) -> float:
        """Its value ``z`` standard deviations from the centre."""
        value = self.centre + self.spread * z if self.linear else self.centre * math.exp(self.spread * z)
        return min(value, self.most)


EVERYWHERE: Final[dict[str, Parameter]] = {
    "overhead_s": Parameter(1e-3, 0.7, 0.0, "host time of a step that no kernel hides, seconds"),
    "request_s": Parameter(3e-5, 0.7, 0.0, "host time of a step for each running request, seconds"),
    "quality": Parameter(0.0, 1.0, 0.0, "the drafter against the paper's on the same text, logits", linear=True),
    "prompt_tokens": Parameter(200.0, 0.5, 500.0, "mean length of the prompts, which are not published, tokens"),
    "prompt_sigma": Parameter(1.0, 0.25, 0.01, "standard deviation of its logarithm"),
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
ROOFLINE: Final[dict[str, Parameter]] = {
    "layer_s": Parameter(6e-5, 0.7, 0.0, "latency of a captured layer besides its work, seconds"),
    "eager_layer_s": Parameter(2.6e-3, 0.3, 0.0, "host time to launch a layer eagerly, seconds"),
    "bandwidth_efficiency": Parameter(0.7, 0.25, 1.0, "reached share of the memory bandwidth", most=1.0),
    "flops_efficiency": Parameter(0.1, 0.5, 1.0, "reached share of the matrix rate, many small experts", most=1.0),
}
ROOFLINE_DENSE: Final[dict[str, Parameter]] = {
    **ROOFLINE,
    "layer_s": Parameter(2e-5, 0.7, 0.0, "latency of a captured layer besides its work, seconds"),
    "eager_layer_s": Parameter(4e-4, 0.3, 0.0, "host time to launch a layer eagerly, seconds"),
    "flops_efficiency": Parameter(0.5, 0.3, 1.0, "reached share of the matrix rate, dense layers", most=1.0),
}
SCALE: Final[dict[str, Parameter]] = {
    "scale": Parameter(1.0, 0.3, 1.0, "all step times over the roofline at the usual efficiencies"),
}


class Space(NamedTuple):
    """The quantities of a deployment.

    Attributes:
        free: Fitted, in a fixed order.
        held: Kept where they are believed to be, or without effect.
    """

    free: Mapping[str, Parameter]
    held: Mapping[str, float]

    def values(self, z: Mapping[str, float] | None = None) -> dict[str, float]:
        """All quantities, the free ones ``z`` standard deviations from their centres."""
        return dict(self.held) | {name: p.at((z or {}).get(name, 0.0)) for name, p in self.free.items()}

    def without(self, name: str) -> Space:
        """The space without the effect of one quantity."""
        free = {other: p for other, p in self.free.items() if other != name}
        known = self.free.get(name) or _all()[name]
        return Space(free, dict(self.held) | {name: known.neutral})


def space(*, curve: bool, mixture: bool, rocm: bool, arms: set[str]) -> Space:
    """The quantities that matter for a deployment, and those of them that its rows can say anything of.

    Args:
        curve: Its step times are measured, otherwise a roofline.
        mixture: It is a mixture of experts.
        rocm: Its GPUs are AMD's.
        arms: Of the rows that it is calibrated on; none where there are no rows.
    """
    relevant = dict(EVERYWHERE)
    if curve:
        relevant |= MIXTURE | CURVE_MIXTURE if mixture else {}
    else:
        relevant |= (ROOFLINE | MIXTURE) if mixture else ROOFLINE_DENSE
    if rocm:
        relevant |= ROCM
    free = {name: p for name, p in relevant.items() if name not in ROCM or "adaptive" in arms}
    if len(arms) < 2 and not curve:
        # One arm cannot say whether kernels or the host are slow, only how slow all is.
        free = {"quality": EVERYWHERE["quality"]} | SCALE
    if not arms:
        free = {}
    return Space(free, {name: p.centre for name, p in {**relevant, **SCALE}.items() if name not in free})


def _all() -> dict[str, Parameter]:
    return {**EVERYWHERE, **MIXTURE, **ROCM, **CURVE_MIXTURE, **ROOFLINE, **SCALE}
