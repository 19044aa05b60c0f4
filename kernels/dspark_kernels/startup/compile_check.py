"""Compiles every kernel for a GPU that is not there, and reads what it takes of one from the machine code."""

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
from dspark_kernels.startup.launch_cases import of_server, specimens
from dspark_kernels.startup.served_shapes import ServedShapes

# Bytes of a thread's registers in memory that a check lets pass. NVIDIA's assembler trades up to ten registers for one
# more program a multiprocessor, other ones in each version; in which configuration cannot be foreseen.
ALLOWED_SPILL = 40
NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class CompiledKernel(NamedTuple):
    """One kernel, specialised as a launch specialises it.

    Attributes:
        kernel: Its name.
        specimen: The call that launches it.
        warps, stages: How it is launched.
        registers: Of a thread, AMD's both kinds together.
        spill_bytes: Stack of a thread; nothing but spilled registers would be there.
        shared_bytes: Shared memory of a program.
        tensor_memory: Columns of sm_100's tensor memory.
        code_bytes: The cubin or code object.
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


class _Absent:
    """A driver of a GPU that is not there: it says what it is and cannot launch."""

    def __init__(self, target: GpuTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return GPUTarget(self._target.backend, self._target.arch, self._target.warp_size)

    def get_current_device(self) -> str:
        return self._target.name

    def get_current_stream(self, device: object) -> int:
        return 0


@contextmanager
def _compiling(found: list[Any]) -> Iterator[None]:
    """Launches become compilations, collected in ``found``."""
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        found.append(run(self, *arguments, grid=grid, warmup=True, **options))

    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run


@contextmanager
def _absent(target: GpuTarget) -> Iterator[None]:
    """A GPU that is not there, to compile for."""
    before = driver._active
    driver.set_active(_Absent(target))
    try:
        with using(target.name):
            yield
    finally:
        driver._active = before


def compile_served(target: GpuTarget, served: ServedShapes, stages: frozenset[str]) -> int:
    """Compiles for the active GPU all that a server will launch, so that no request waits for a compiler.

    Returns:
        How many kernels there are.
    """
    found: list[Any] = []
    with using(target.name), _compiling(found):
        for call in of_server(served, stages):
            call()
    return len({kernel.hash for kernel in found})


@contextmanager
def counting_kernels(target: GpuTarget) -> Iterator[set[str]]:
    """The kernels that launches in the block would compile for a GPU that is not there, by their hashes."""
    found: list[Any] = []
    hashes: set[str] = set()
    with _absent(target), _compiling(found):
        yield hashes
    hashes.update(kernel.hash for kernel in found)


def compile_all(target_name: str) -> Iterator[CompiledKernel]:
    """Compiles for one of ``launch_configs.TARGETS`` and yields each kernel once for each distinct machine code."""
    seen: set[str] = set()
    for specimen in specimens(TARGETS[target_name]):
        yield from _compile(target_name, specimen.call, specimen.name, seen)


def compile_calls(target_name: str, calls: Iterable[Callable[[], object]]) -> list[CompiledKernel]:
    """The kernels that calls launch, on tensors without storage, compiled for a target."""
    seen: set[str] = set()
    return [one for call in calls for one in _compile(target_name, call, "", seen)]


def _compile(target_name: str, call: Callable[[], object], name: str, seen: set[str]) -> Iterator[CompiledKernel]:
    target, found = TARGETS[target_name], list[Any]()
    with _absent(target), _compiling(found):
        call()
    for kernel in found:
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
    """Registers and stack from the cubin itself."""
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
    """Registers and stack from the code object's metadata."""

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        if found is None:
            raise ValueError(f"amdgcn: no .{name} in the code object's metadata")
        return int(found[1])

    return field("vgpr_count"), field("private_segment_fixed_size")
