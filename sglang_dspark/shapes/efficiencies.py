"""Share of a GPU's published peaks that engines reach; used by scenarios, plans and the priors of ``dspark validate``.

Fitted by least squares on the logarithms of throughput to 59 published runs: V4-Flash and V4-Pro on B300, V4-Flash on
MI350X, Qwen3-4B, 8B and 14B on H200, and Qwen3-30B-A3B on two H100. Steps beyond the captured graphs were excluded, the
drafter's quality was free for each deployment, host time and novelty were as below. docs/fidelity.md has the residuals.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sglang_dspark.shapes.gpus import Gpu
from sglang_dspark.shapes.model import ModelShape


class Efficiencies(NamedTuple):
    """Free parameters of a roofline.

    Attributes:
        bandwidth_efficiency: Reached share of memory and fabric bandwidth.
        flops_efficiency: Reached share of the dense rates.
        layer_s: Latency of one captured layer in addition to its work: kernel starts and tails.
        eager_layer_s: Host time to launch one layer eagerly, a lower bound of eager steps.
    """

    bandwidth_efficiency: float
    flops_efficiency: float
    layer_s: float
    eager_layer_s: float


# Host time not hidden by kernels, per step and per request of the step (docs/fidelity.md).
OVERHEAD_S: Final = 1e-3
REQUEST_S: Final = 3e-5
# See ``CostModel.draft_novelty``.
DRAFT_NOVELTY: Final = 0.5

_BANDWIDTH: Final = 0.75
# Many small experts use matrix units far less efficiently than dense layers.
_FLOPS_DENSE: Final = 0.46
_FLOPS_EXPERTS: Final = 0.052
# Grouped-query layers, and layers of DeepSeek-V4: compressed attention, its index, four residual streams.
_LAYER_S: Final = 3.6e-5
_EAGER_LAYER_S: Final = 4e-4
_COMPRESSED_LAYER_S: Final = 1.06e-4
_COMPRESSED_EAGER_LAYER_S: Final = 2.6e-3
# Ratio of a layer's latency on ROCm to that on CUDA.
_ROCM: Final = 1.5


def of(model: ModelShape, gpu: Gpu) -> Efficiencies:
    """Efficiencies of a model on a GPU."""
    compressed = any(one.slow_launch for one in model.attention)
    layer_s = _COMPRESSED_LAYER_S if compressed else _LAYER_S
    return Efficiencies(
        bandwidth_efficiency=_BANDWIDTH,
        flops_efficiency=_FLOPS_EXPERTS if model.is_mixture else _FLOPS_DENSE,
        layer_s=layer_s * _ROCM if gpu.rocm else layer_s,
        eager_layer_s=_COMPRESSED_EAGER_LAYER_S if compressed else _EAGER_LAYER_S,
    )
