"""Compile kernels for any supported GPU, present or not, and read registers, spills and memory from the code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from dspark_kernels.launch_configs import TARGETS, GpuTarget, using
from dspark_kernels.startup.launch_cases import all_cases, server_cases
from dspark_kernels.startup.served_shapes import ServedShapes

# Spilled bytes a thread that the check accepts. NVIDIA's assembler may trade up to ten registers for one more program a
# multiprocessor, in configurations that vary with its version.
ALLOWED_SPILL = 40
NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class CompiledKernel(NamedTuple):
    """Resources of one compiled specialisation of a kernel.

    Attributes:
        target: Name of the GPU target.
        kernel: Its name.
        specimen: The launch case that compiled it first.
        warps, stages: Compiler options.
        registers: Per thread, on AMD vector and accumulation registers together.
        spill_bytes: Stack per thread, which holds nothing but spilled registers.
        shared_bytes: Shared memory per program.
        tensor_memory: Columns of tensor memory (sm_100).
        code_bytes: Size of the cubin or code object.
    """

    target: str
    kernel: str
    specimen: str
    warps: int
    stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_memory: int
    code_bytes: int


class _CompileOnlyDriver:
    """A Triton driver that reports a target and cannot launch."""

    def __init__(self, target: GpuTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return GPUTarget(self._target.backend, self._target.arch, self._target.warp_size)

    def get_current_device(self) -> str:
        return self._target.name

    def get_current_stream(self, device: object) -> int:
        return 0


@contextmanager
def _compiling(kernels: list[Any]) -> Iterator[None]:
    """Compile instead of launching, and collect the compiled kernels."""
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernels.append(run(self, *arguments, grid=grid, warmup=True, **options))

    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run


@contextmanager
def _cross_compiling(target: GpuTarget) -> Iterator[None]:
    """Compile for ``target`` on a machine with any GPU or none."""
    before = driver._active
    driver.set_active(_CompileOnlyDriver(target))
    try:
        with using(target.name):
            yield
    finally:
        driver._active = before


def compile_served(target: GpuTarget, served: ServedShapes, stages: frozenset[str]) -> int:
    """Compile for this machine's GPU all that a server will launch, so that no request waits for the compiler.

    Returns:
        The number of kernels.
    """
    kernels: list[Any] = []
    with using(target.name), _compiling(kernels):
        for call in server_cases(served, stages):
            call()
    return len({kernel.hash for kernel in kernels})


@contextmanager
def counting_kernels(target: GpuTarget) -> Iterator[set[str]]:
    """Yield a set that holds, after the block, the hashes of the kernels that its launches would compile."""
    kernels: list[Any] = []
    hashes: set[str] = set()
    with _cross_compiling(target), _compiling(kernels):
        yield hashes
    hashes.update(kernel.hash for kernel in kernels)


def compile_all(target_name: str) -> Iterator[CompiledKernel]:
    """Compile all cases for one of ``launch_configs.TARGETS``; yield each distinct kernel once."""
    seen: set[str] = set()
    for case in all_cases(TARGETS[target_name]):
        yield from _compile(target_name, case.call, case.name, seen)


def compile_calls(target_name: str, calls: Iterable[Callable[[], object]]) -> list[CompiledKernel]:
    """Compile for a target the kernels that calls on tensors without storage launch."""
    seen: set[str] = set()
    return [one for call in calls for one in _compile(target_name, call, "", seen)]


def _compile(target_name: str, call: Callable[[], object], name: str, seen: set[str]) -> Iterator[CompiledKernel]:
    target, kernels = TARGETS[target_name], list[Any]()
    with _cross_compiling(target), _compiling(kernels):
        call()
    for kernel in kernels:
        if kernel.hash not in seen:
            seen.add(kernel.hash)
            yield _read(target, kernel, name)


def _read(target: GpuTarget, kernel: Any, specimen: str) -> CompiledKernel:
    meta = kernel.metadata
    amd = target.backend == "hip"
    code = kernel.asm["hsaco" if amd else "cubin"]
    registers, spill_bytes = _amd(kernel.asm["amdgcn"]) if amd else _nvidia(code)
    return CompiledKernel(
        target.name,
        meta.name,
        specimen,
        meta.num_warps,
        meta.num_stages,
        registers,
        spill_bytes,
        meta.shared,
        getattr(meta, "tmem_size", 0) or 0,
        len(code),
    )


def _nvidia(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes from the cubin, by cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(NVIDIA_TOOLS / "cuobjdump"), "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if usage is None:
        raise ValueError(f"cuobjdump: no resource usage in {text[:200]!r}")
    return int(usage[1]), int(usage[2])


def _amd(assembly: str) -> tuple[int, int]:
    """Registers and stack bytes from the metadata of the code object."""

    def field(name: str) -> int:
        value = re.search(rf"\.{name}:\s+(\d+)", assembly)
        if value is None:
            raise ValueError(f"amdgcn: no .{name} in the code object's metadata")
        return int(value[1])

    return field("vgpr_count"), field("private_segment_fixed_size")
