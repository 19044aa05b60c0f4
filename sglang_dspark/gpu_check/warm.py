"""Compiles the CUDA kernels that SGLang would compile one after another while its first server starts.

``python -m sglang_dspark.gpu_check.warm HEAD_DIM KV_HEADS`` runs beside that start: SGLang locks each kernel's cache
while it is built, so either finds what the other has made. Which kernels a server needs was found by starting one on a
CPU that said it was a GPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def builds(head_dim: int, kv_heads: int) -> dict[str, Callable[[], Any]]:
    """By name, what builds each kernel of a dense bfloat16 model, target and draft alike."""
    from sglang.kernels.ops.activation import activation
    from sglang.kernels.ops.attention import clamp_position, rope
    from sglang.kernels.ops.kvcache import kvcache
    from sglang.kernels.ops.layernorm import norm

    row_bytes = 2 * head_dim * kv_heads
    dtype = torch.bfloat16
    return {
        "activation": lambda: activation.activation_module(dtype),
        "clamp_position": lambda: clamp_position._jit_clamp_position_module(torch.int64),
        "kvcache": lambda: kvcache._jit_kvcache_module(row_bytes, row_bytes, 0),
        "qknorm": lambda: norm._jit_qknorm_module(head_dim, dtype),
        "rope": lambda: rope._jit_fused_rope_module(True, head_dim, dtype, dtype),
    }


def main() -> None:
    head_dim, kv_heads = (int(word) for word in sys.argv[1:])

    def build(name: str, call: Callable[[], Any]) -> None:
        started_s = time.monotonic()
        try:
            call()
            print(f"{name}: {time.monotonic() - started_s:.1f} s", flush=True)
        except Exception as error:  # The server tries again, and says so.
            print(f"{name}: {type(error).__name__}: {error}", flush=True)

    wanted = builds(head_dim, kv_heads)
    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(build, wanted, wanted.values()))


if __name__ == "__main__":
    main()
