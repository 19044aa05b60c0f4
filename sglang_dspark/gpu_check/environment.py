"""What a server of the GPU check finds on its path: the stand-in for ``sgl_kernel``, and plugins as entry points.

A machine that only has this tree on its path has no installed distribution that would name the plugins.
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
# On a GPU; SGLang's graphs of prefills would be one more thing to capture, and nothing here measures them.
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
    """Variables of a server that finds the plugins; ``folder`` gets their entry points."""
    return {"PYTHONPATH": _path(_entry_points(folder)), **CACHE}


def gpu(folder: Path, cache: Path) -> dict[str, str]:
    """Variables of a server on a GPU without a ``sgl_kernel`` of its own.

    Args:
        folder: Gets the entry points of the plugins.
        cache: Compiled kernels; later servers start sooner with the same one.
    """
    return {
        "PYTHONPATH": _path(STAND_IN, _entry_points(folder)),
        # The stand-in is no distribution whose version SGLang could check.
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
    """A folder whose distribution names the attention backend, and the plugin where no installed one does."""
    installed = {entry.value for group in PLUGINS for entry in importlib.metadata.entry_points(group=group)}
    info = folder / "plugins" / "dspark_gpu_check-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dspark-gpu-check\nVersion: 0\n")
    lines = []
    for group, entries in PLUGINS.items():
        wanted = {name: value for name, value in entries.items() if value not in installed}
        if group == "sglang.srt.plugins":
            wanted["dspark_gpu_check"] = CHECK
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in wanted.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return str(info.parent.resolve())
