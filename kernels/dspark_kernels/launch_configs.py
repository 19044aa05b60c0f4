"""Launch configurations, one table a GPU, and why they are what they are.

Nobody has timed them. They follow from the machine: what a program keeps in shared memory and registers has to fit
(``dspark kernels check`` compiles each and fails on a spill), ``W2`` should be read once (so a block holds all rows as
long as it can), one program a multiprocessor keeps two or three tiles of ``W2`` in flight, and each program reads its
rows' latents once, so more programs than multiprocessors would only read more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import torch


class ScanConfig(NamedTuple):
    """How a pass over the vocabulary is cut.

    Attributes:
        block_rows: Rows of a program; 16 at least, for the matrix unit.
        block_vocab: Columns of a tile.
        warps, stages: Of the compiler; stages is how many tiles of ``W2`` are in flight.
        programs: Of a launch, shared out among the blocks of rows.
    """

    block_rows: int
    block_vocab: int
    warps: int
    stages: int
    programs: int

    def parts(self, width: int, rows: int) -> int:
        """Programs that share the vocabulary of a block of rows."""
        blocks = -(-rows // self.block_rows)
        return max(1, min(-(-width // self.block_vocab), self.programs // blocks))


class GpuTarget(NamedTuple):
    """A GPU that kernels are compiled for.

    Attributes:
        name: As the compilers call it.
        gpu: A product that has it.
        backend, arch, warp_size: Of ``triton.backends.compiler.GPUTarget``.
        bytes_per_s: Published memory bandwidth of the product.
        shared_bytes: Shared memory that a program may have.
        draft, residual: Configurations of the two passes for 2-byte weights, by the most rows each is for.
        single: The same for 4-byte weights.
        wide: Of the draft pass for 2-byte weights where 4-byte logits are read or kept; empty if ``draft`` fits them.
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
        """Of products of float32: three TF32 products on NVIDIA, whose tensor cores have no float32."""
        return "tf32x3" if self.backend == "cuda" else "ieee"


def _scans(*shapes: tuple[int, int, int, int, int]) -> tuple[ScanConfig, ...]:
    """Configurations from tuples in the order of the fields: rows, columns, warps, stages, programs."""
    return tuple(ScanConfig(*shape) for shape in shapes)


# Shared memory that a program may have on compute capabilities 8.6, 8.9 and 12.0 (CUDA programming guide): 99 KiB.
SMALL_SHARED: Final = 101_376


def _small(name: str, gpu: str, arch: int, bandwidth: float, programs: int, warps: int = 4) -> GpuTarget:
    """A GPU of little shared memory: float32 logits fit too, and 128 rows beside tiles of 16 columns.

    Args:
        warps: Of draft passes over 16 and 32 rows.
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


# Columns of a tile: what leaves no register in memory (with 64 columns in 8 warps a tile of 64 rows spills on sm_80 and
# sm_100, with 128 it does not) and fits twice or three times beside the latents. 256 rows fit beside two tiles of 32
# columns on sm_90 and of 16 on sm_100, so W2 is read once there up to 256 rows; on sm_80 and gfx942 128 rows fit.
# Programs: one a multiprocessor, but 108 of an H100's 132 and a B200's 148 from 64 rows on. There the latents that each
# reads are 32 KiB and more, and 108 keep what the programs read again below 5 %; they have 7 MB and more of W2 in
# flight, which is more than bandwidth times a microsecond of latency on an H100, and V 151,936 in tiles of 16, 32, 64
# or 128 is 88, 44, 22 or 11 turns of 108 without a rest.
# Warps: with 4 of them 16 or 32 rows spill on sm_100 and sm_120, with 8 they do not. Four-byte logits take twice the
# registers, so at 128 rows their tiles are narrower on sm_100 and gfx942.
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

# The interpreter pays for operations, not for their width; a few parts, so that parts are combined there too.
INTERPRETED: Final = ScanConfig(64, 256, 4, 1, 4)

_chosen: ContextVar[GpuTarget | None] = ContextVar("target", default=None)


@contextmanager
def using(name: str) -> Iterator[GpuTarget]:
    """Launches as for a target, whatever the machine is: for compiling ahead of time and for the interpreter."""
    token = _chosen.set(TARGETS[name])
    try:
        yield TARGETS[name]
    finally:
        _chosen.reset(token)


def covering(device: torch.device) -> GpuTarget | None:
    """The target that a device is; None for a GPU that nothing here is compiled for. Without a GPU, an H100."""
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
    """The target of an NVIDIA GPU: its own, or the nearest before it of its generation that fits its shared memory.

    Args:
        shared_bytes: Shared memory that a program of it may have.
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
    """As :func:`covering`.

    Raises:
        ValueError: None covers it.
    """
    if (target := covering(device)) is None:
        raise ValueError(f"device: {device} is no target of these kernels, expected {', '.join(TARGETS)}")
    return target


def draft_scan(device: torch.device, rows: int, itemsize: int, wide: bool) -> ScanConfig:
    """The draft pass for weights of ``itemsize`` bytes; ``wide`` where 4-byte logits are read or kept."""
    if _is_interpreted(device):
        return INTERPRETED
    target = of(device)
    half = (wide and target.wide) or target.draft
    return for_rows(half if itemsize == 2 else target.single, rows)


def residual_scan(device: torch.device, rows: int, itemsize: int) -> ScanConfig:
    """The pass that draws from the residual."""
    if _is_interpreted(device):
        return INTERPRETED
    target = of(device)
    return for_rows(target.residual if itemsize == 2 else target.single, rows)


def _is_interpreted(device: torch.device) -> bool:
    return device.type == "cpu" and _chosen.get() is None


def for_rows(table: tuple[ScanConfig, ...], rows: int) -> ScanConfig:
    return next((scan for scan in table if rows <= scan.block_rows), table[-1])
