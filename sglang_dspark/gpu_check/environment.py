"""The environment of the GPU check's servers: a stand-in for ``sgl_kernel``, and plugins as entry points.

The entry points are written to a folder because a machine with only this tree on its path has no installed distribution
that names the plugins.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Final

from sglang_dspark.gpu_check.plugin import BACKEND

STAND_IN: Final = str(Path(__file__).parent / "stand_in")
PLUGINS: Final = {
    "sglang.srt.platforms": {"dspark": "sglang_dspark.serving.platform:activate"},
    "sglang.srt.plugins": {"dspark": "sglang_dspark.serving.plugin:register"},
}
# On a GPU. Graphs of prefills are disabled: they take time to capture, and no stage measures them.
FLAGS: Final = {
    "--device": "cuda",
    "--attention-backend": BACKEND,
    "--sampling-backend": "pytorch",
    "--grammar-backend": "none",
    "--disable-prefill-cuda-graph": "",
    "--dtype": "bfloat16",
}
DRAFT_BACKEND: Final = {"--speculative-draft-attention-backend": "triton"}
# SGLang's other prefix cache, in Rust, is linked against its own version of PyTorch.
CACHE: Final = {"SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": "python"}
CHECK: Final = "sglang_dspark.gpu_check.plugin:register"


def plugins(folder: Path) -> dict[str, str]:
    """Write the plugins' entry points to ``folder`` and return a server's variables that make it find them."""
    return {"PYTHONPATH": _path(_entry_points(folder)), **CACHE}


def gpu(folder: Path, cache: Path) -> dict[str, str]:
    """Return the variables of a server on a GPU without an installed ``sgl_kernel``.

    Args:
        folder: To write the plugins' entry points to.
        cache: Folder of compiled kernels; later servers with the same folder start sooner.
    """
    return {
        "PYTHONPATH": _path(STAND_IN, _entry_points(folder)),
        # The stand-in is not an installed distribution whose version SGLang could check.
        "SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK": "1",
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "SGLANG_JIT_CACHE_DIR": str(cache / "jit"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "SGLANG_USE_CPU_ENGINE": "0",
        **CACHE,
    }


def _path(*first: str) -> str:
    return os.pathsep.join(dict.fromkeys([*first, *(path for path in sys.path if path)]))


def _entry_points(folder: Path) -> str:
    """Write a distribution that names the attention backend, and the plugins unless an installed one names them."""
    installed = {entry.value for group in PLUGINS for entry in importlib.metadata.entry_points(group=group)}
    info = folder / "plugins" / "dspark_gpu_check-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dspark-gpu-check\nVersion: 0\n")
    lines = []
    for group, entries in PLUGINS.items():
        absent = {name: value for name, value in entries.items() if value not in installed}
        if group == "sglang.srt.plugins":
            absent["dspark_gpu_check"] = CHECK
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in absent.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return str(info.parent.resolve())
