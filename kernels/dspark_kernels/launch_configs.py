"""Launch configurations for each supported GPU, and the reasons for them.

They are derived from the hardware and untimed. A program's tiles must fit shared memory and registers (``dspark kernels
check`` compiles each configuration and fails on a spill). ``W2`` should be read once, so a block holds as many rows as
fit. One program a multiprocessor keeps two or three tiles of ``W2`` in flight. Each program reads the latents of its
rows once, so more programs than multiprocessors would only add reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import torch


class ScanConfig(NamedTuple):
    """How a pass over the vocabulary is split into programs and tiles.

    Attributes:
        block_rows: Rows a program; at least 16, for the matrix unit.
        block_vocab: Columns a tile.
        warps, stages: Compiler options; ``stages`` is the number of tiles of ``W2`` in flight.
        programs: Programs of a launch, divided among the blocks of rows.
    """

    block_rows: int
    block_vocab: int
    warps: int
    stages: int
    programs: int

    def parts(self, width: int, rows: int) -> int:
        """Number of programs that share the vocabulary for a block of rows."""
        blocks = -(-rows // self.block_rows)
        return max(1, min(-(-width // self.block_vocab), self.programs // blocks))


class GpuTarget(NamedTuple):
    """A GPU architecture that kernels are compiled for, with its launch configurations.

    Attributes:
        name: Compilers' name of the architecture.
        gpu: A product that has it.
        backend, arch, warp_size: As in ``triton.backends.compiler.GPUTarget``.
        bytes_per_s: Published memory bandwidth of the product.
        shared_bytes: Maximum shared memory a program.
        draft, residual: Configurations of the two passes for 2-byte weights, in ascending order of rows.
        single: Configurations of both passes for 4-byte weights.
        wide: Configurations of the draft pass for 2-byte weights with 4-byte logits; empty if ``draft`` fits them.
    """

    name: str
    gpu: str
    backend: str
    arch: int | str
    warp_size: int
    bytes_per_s: float
    shared_bytes: int
    draft: tuple[ScanConfig, ...]
    residual: tuple[ScanConfig, ...]
    single: tuple[ScanConfig, ...]
    wide: tuple[ScanConfig, ...] = ()

    @property
    def precision(self) -> str:
        """Precision of float32 products: three TF32 products on NVIDIA, whose tensor cores have no float32."""
        return "tf32x3" if self.backend == "cuda" else "ieee"


def _scans(*shapes: tuple[int, int, int, int, int]) -> tuple[ScanConfig, ...]:
    """Configurations from tuples in the order of the fields: rows, columns, warps, stages, programs."""
    return tuple(ScanConfig(*shape) for shape in shapes)


# Maximum shared memory a program on compute capabilities 8.6, 8.9 and 12.0 (CUDA programming guide): 99 KiB.
SMALL_SHARED: Final = 101_376


def _small(name: str, gpu: str, arch: int, bandwidth: float, programs: int, warps: int = 4) -> GpuTarget:
    """A GPU with 99 KiB of shared memory, which fits 128 rows with tiles of 16 columns, and float32 logits.

    Args:
        warps: Warps of draft passes over 16 and 32 rows.
    """
    return GpuTarget(
        name,
        gpu,
        "cuda",
        arch,
        32,
        bandwidth,
        SMALL_SHARED,
        draft=_scans(
            (16, 64, warps, 3, programs),
            (32, 64, warps, 2, programs),
            (64, 32, 4, 3, programs),
            (128, 16, 8, 2, programs),
        ),
        residual=_scans((16, 64, 4, 3, programs), (32, 32, 4, 3, programs), (64, 32, 8, 2, programs)),
        single=_scans((16, 32, 8, 1, programs)),
    )


# Columns of a tile: such that nothing spills (64 rows by 64 columns in 8 warps spill on sm_80 and sm_100, by 128
# columns they do not) and two or three tiles fit shared memory with the latents. 256 rows fit with two tiles of 32
# columns on sm_90 and of 16 on sm_100, so W2 is read once up to 256 rows; on sm_80 and gfx942 128 rows fit.
# Programs: one a multiprocessor, but from 64 rows on 108 of the 132 of an H100 and the 148 of a B200. There each
# program reads latents of at least 32 KiB, and 108 programs keep repeated reads below 5 %. They have at least 7 MB of
# W2 in flight, more than bandwidth times a microsecond of latency on an H100, and V 151,936 in tiles of 16, 32, 64 or
# 128 divides into exactly 88, 44, 22 or 11 rounds of 108.
# Warps: 4 warps spill at 16 or 32 rows on sm_100 and sm_120, 8 do not. 4-byte logits take twice the registers, so at
# 128 rows their tiles are narrower on sm_100 and gfx942.
TARGETS: Final = {
    target.name: target
    for target in (
        GpuTarget(
            "sm_80",
            "A100",
            "cuda",
            80,
            32,
            2.039e12,  # NVIDIA A100 80GB SXM data sheet.
            166_912,
            draft=_scans((16, 64, 4, 3, 108), (32, 64, 4, 3, 108), (64, 128, 8, 2, 108), (128, 32, 8, 3, 108)),
            residual=_scans((16, 64, 4, 3, 108), (32, 32, 4, 3, 108), (64, 32, 8, 3, 108)),
            single=_scans((16, 32, 4, 2, 108)),
        ),
        _small("sm_86", "A10", 86, 6e11, 72),  # NVIDIA A10 data sheet.
        _small("sm_89", "L40S", 89, 8.64e11, 142),  # NVIDIA L40S data sheet.
        GpuTarget(
            "sm_90",
            "H100",
            "cuda",
            90,
            32,
            3.35e12,  # NVIDIA H100 SXM5 data sheet.
            232_448,
            draft=_scans(
                (16, 64, 4, 3, 132),
                (32, 64, 4, 3, 132),
                (64, 64, 8, 3, 108),
                (128, 64, 8, 2, 108),
                (256, 32, 8, 2, 108),
            ),
            residual=_scans((16, 64, 4, 3, 132), (32, 32, 4, 3, 132), (64, 32, 8, 3, 132)),
            single=_scans((16, 32, 4, 2, 132)),
        ),
        GpuTarget(
            "sm_100",
            "B200",
            "cuda",
            100,
            32,
            8e12,  # NVIDIA DGX B200 data sheet, one of eight.
            232_448,
            draft=_scans(
                (16, 64, 8, 3, 148),
                (32, 64, 8, 3, 148),
                (64, 128, 8, 2, 108),
                (128, 64, 8, 2, 108),
                (256, 16, 8, 2, 108),
            ),
            residual=_scans((16, 64, 4, 3, 148), (32, 32, 4, 3, 148), (64, 32, 4, 3, 148)),
            single=_scans((16, 32, 4, 2, 148)),
            wide=_scans((16, 64, 8, 3, 148), (32, 64, 8, 3, 148), (64, 128, 8, 2, 108), (128, 32, 8, 2, 108)),
        ),
        # NVIDIA RTX PRO 6000 Blackwell data sheet.
        _small("sm_120", "RTX PRO 6000", 120, 1.792e12, 188, warps=8),
        GpuTarget(
            "gfx942",
            "MI300X",
            "hip",
            "gfx942",
            64,
            5.3e12,  # AMD Instinct MI300X data sheet.
            65_536,
            draft=_scans((16, 64, 4, 2, 304), (32, 32, 4, 2, 304), (64, 64, 4, 2, 304), (128, 64, 8, 2, 304)),
            residual=_scans((16, 64, 4, 2, 304), (32, 32, 4, 2, 304), (64, 64, 4, 2, 304)),
            single=_scans((16, 32, 4, 2, 304)),
            wide=_scans((16, 64, 4, 2, 304), (32, 32, 4, 2, 304), (64, 64, 4, 2, 304), (128, 16, 8, 2, 304)),
        ),
    )
}

# The interpreter's cost is per operation, not per element: wide tiles, and four parts so that parts are merged too.
INTERPRETED: Final = ScanConfig(64, 256, 4, 1, 4)

_chosen: ContextVar[GpuTarget | None] = ContextVar("target", default=None)


@contextmanager
def using(name: str) -> Iterator[GpuTarget]:
    """Use the configurations of a target on any machine, to compile for it or to interpret."""
    token = _chosen.set(TARGETS[name])
    try:
        yield TARGETS[name]
    finally:
        _chosen.reset(token)


def covering(device: torch.device) -> GpuTarget | None:
    """The target of a device; None for an unsupported GPU, that of an H100 without a GPU."""
    if (chosen := _chosen.get()) is not None:
        return chosen
    if device.type != "cuda":
        return TARGETS["sm_90"]
    if torch.version.hip is not None:
        return TARGETS.get(torch.cuda.get_device_properties(device).gcnArchName.split(":")[0])
    major, minor = torch.cuda.get_device_capability(device)
    properties: Any = torch.cuda.get_device_properties(device)
    return for_capability(major, minor, properties.shared_memory_per_block_optin)


def for_capability(major: int, minor: int, shared_bytes: int) -> GpuTarget | None:
    """The target of an NVIDIA GPU: its own, or the nearest older one of its generation that fits its shared memory.

    Args:
        shared_bytes: Maximum shared memory a program on that GPU.
    """
    fitting = [
        target
        for target in TARGETS.values()
        if isinstance(target.arch, int)
        and target.arch // 10 == major
        and target.arch % 10 <= minor
        and target.shared_bytes <= shared_bytes
    ]
    return max(fitting, key=lambda target: int(target.arch), default=None)


def of(device: torch.device) -> GpuTarget:
    """The target of a device.

    Raises:
        ValueError: The device is an unsupported GPU.
    """
    if (target := covering(device)) is None:
        raise ValueError(f"device: {device} is not supported by these kernels, expected {', '.join(TARGETS)}")
    return target


def draft_scan(device: torch.device, rows: int, itemsize: int, wide: bool) -> ScanConfig:
    """Configuration of the draft pass; ``itemsize`` is that of ``W2``, ``wide`` if 4-byte logits are read or kept."""
    if _is_interpreted(device):
        return INTERPRETED
    target = of(device)
    half = (wide and target.wide) or target.draft
    return for_rows(half if itemsize == 2 else target.single, rows)


def residual_scan(device: torch.device, rows: int, itemsize: int) -> ScanConfig:
    """Configuration of the residual pass."""
    if _is_interpreted(device):
        return INTERPRETED
    target = of(device)
    return for_rows(target.residual if itemsize == 2 else target.single, rows)


def _is_interpreted(device: torch.device) -> bool:
    return device.type == "cpu" and _chosen.get() is None


def for_rows(table: tuple[ScanConfig, ...], rows: int) -> ScanConfig:
    """The first configuration of a table that holds all rows in a block, otherwise the last."""
    return next((scan for scan in table if rows <= scan.block_rows), table[-1])
