"""Published memory, bandwidth and dense matrix rates of GPUs, for the roofline. A new GPU is an entry of ``GPUS``.

These are vendors' peaks, never reached: cost models multiply them by efficiency factors. Rates are dense (no structured
sparsity); a format that the GPU cannot multiply is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from sglang_dspark.shapes.registry import KeyOf

Format = Literal["bf16", "fp8", "fp4"]

# Arithmetic of weights: a format of the GPU, or FP4 weights with FP8 activations.
Arithmetic = Literal["bf16", "fp8", "fp4", "fp4_fp8"]

# AMD boards link each GPU directly to each of its seven peers.
_MESH_PEERS = 7


class Gpu(NamedTuple):
    """Published figures of a GPU.

    Attributes:
        memory_bytes: Device memory.
        bytes_per_s: Memory bandwidth.
        flops_per_s: Dense rate by format, counting two operations per multiply-add.
        fabric_bytes_per_s: Bandwidth to the other GPUs of the node, one direction, all links.
        switched: All links can serve any peer (NVSwitch, or PCIe through the host); otherwise each peer has its own.
        rocm: AMD GPU, on which SGLang and vLLM use other code paths.
    """

    memory_bytes: float
    bytes_per_s: float
    flops_per_s: Mapping[Format, float]
    fabric_bytes_per_s: float
    switched: bool
    rocm: bool = False

    def rate(self, arithmetic: Arithmetic) -> float:
        """Operations per second on weights of a format; the bf16 rate if the GPU must convert the format."""
        rates = self.flops_per_s
        if arithmetic == "fp4_fp8":
            return rates["fp8"] if "fp4" in rates else rates["bf16"]
        return rates.get(arithmetic, rates["bf16"])

    def group_bytes_per_s(self, size: int) -> float:
        """One-direction bandwidth from a GPU to the others of a group of ``size`` GPUs."""
        if self.switched:
            return self.fabric_bytes_per_s
        return self.fabric_bytes_per_s * min(size - 1, _MESH_PEERS) / _MESH_PEERS


GPUS: Mapping[str, Gpu] = {
    # NVIDIA A100 80GB SXM data sheet (nvidia-a100-datasheet-us-nvidia-1758950-r4).
    "A100": Gpu(80e9, 2.039e12, {"bf16": 312e12}, 300e9, True),
    # NVIDIA L40S data sheet: no NVLink, PCIe Gen4 x16 of 64 GB/s in both directions.
    "L40S": Gpu(48e9, 864e9, {"bf16": 362.05e12, "fp8": 733e12}, 32e9, True),
    # NVIDIA H20 data sheet (HGX H20, 96 GB): Hopper's memory and NVLink with less compute.
    "H20": Gpu(96e9, 4e12, {"bf16": 148e12, "fp8": 296e12}, 450e9, True),
    # NVIDIA H100 SXM5 data sheet and Hopper architecture white paper.
    "H100": Gpu(80e9, 3.35e12, {"bf16": 989.4e12, "fp8": 1978.9e12}, 450e9, True),
    # NVIDIA H200 SXM data sheet: the H100's compute.
    "H200": Gpu(141e9, 4.8e12, {"bf16": 989.4e12, "fp8": 1978.9e12}, 450e9, True),
    # NVIDIA DGX B200 data sheet, a GPU of eight: 1,440 GB, 64 TB/s, 72 PFLOPS dense FP4, 36 FP8.
    "B200": Gpu(180e9, 8e12, {"bf16": 2250e12, "fp8": 4500e12, "fp4": 9000e12}, 900e9, True),
    # NVIDIA DGX B300 data sheet, a GPU of eight: 2.3 TB, 64 TB/s, 108 PFLOPS dense FP4, 36 FP8.
    "B300": Gpu(288e9, 8e12, {"bf16": 2250e12, "fp8": 4500e12, "fp4": 13500e12}, 900e9, True),
    # NVIDIA GB200 NVL72 data sheet, a GPU of 72: 13.4 TB, 576 TB/s, 720 PFLOPS dense FP4, 360 FP8, 180 BF16.
    "GB200": Gpu(186e9, 8e12, {"bf16": 2500e12, "fp8": 5000e12, "fp4": 10000e12}, 900e9, True),
    # NVIDIA GB300 NVL72 data sheet, a GPU of 72: 20 TB, 576 TB/s, 1,080 PFLOPS dense FP4, 360 FP8, 180 BF16.
    "GB300": Gpu(278e9, 8e12, {"bf16": 2500e12, "fp8": 5000e12, "fp4": 15000e12}, 900e9, True),
    # NVIDIA RTX PRO 6000 Blackwell data sheet (96 GB, 1,792 GB/s, PCIe Gen5 x16) and the rates of NVIDIA's RTX
    # Blackwell PRO architecture white paper; the Server Edition has 1,597 GB/s.
    "RTX PRO 6000": Gpu(96e9, 1.792e12, {"bf16": 503.8e12, "fp8": 1007.6e12, "fp4": 2015.2e12}, 64e9, True),
    # AMD Instinct MI300X data sheet; seven Infinity Fabric links of 64 GB/s a direction.
    "MI300X": Gpu(192e9, 5.3e12, {"bf16": 1307.4e12, "fp8": 2614.9e12}, 448e9, False, rocm=True),
    # AMD Instinct MI325X data sheet: the MI300X's compute and links.
    "MI325X": Gpu(256e9, 6e12, {"bf16": 1307.4e12, "fp8": 2614.9e12}, 448e9, False, rocm=True),
    # AMD Instinct MI350X data sheet; seven Infinity Fabric links of 76.8 GB/s a direction.
    "MI350X": Gpu(288e9, 8e12, {"bf16": 2300e12, "fp8": 4600e12, "fp4": 9200e12}, 537.6e9, False, rocm=True),
    # AMD Instinct MI355X data sheet: the MI350X with liquid cooling and higher rates.
    "MI355X": Gpu(288e9, 8e12, {"bf16": 2500e12, "fp8": 5000e12, "fp4": 10000e12}, 537.6e9, False, rocm=True),
}

GpuName = Annotated[str, KeyOf(GPUS)]
