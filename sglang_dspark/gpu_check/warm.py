"""Compile SGLang's CUDA kernels in parallel: ``python -m sglang_dspark.gpu_check.warm HEAD_DIM KV_HEADS``.

It runs beside the start of the first server, which would compile them one after another. SGLang locks each kernel's
cache during the build, so that both processes share the results. The list of kernels comes from a server started on a
CPU that reported itself as a GPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def builds(head_dim: int, kv_heads: int) -> dict[str, Callable[[], Any]]:
    """Return the build function of each kernel of a dense bfloat16 model, by name; target and draft share them."""
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
    """Build all kernels in threads and print their times."""
    head_dim, kv_heads = (int(word) for word in sys.argv[1:])

    def build(name: str, call: Callable[[], Any]) -> None:
        started_s = time.monotonic()
        try:
            call()
            print(f"{name}: {time.monotonic() - started_s:.1f} s", flush=True)
        except Exception as error:  # The server builds it again and reports the error.
            print(f"{name}: {type(error).__name__}: {error}", flush=True)

    kernels = builds(head_dim, kv_heads)
    with ThreadPoolExecutor(len(kernels)) as pool:
        list(pool.map(build, kernels, kernels.values()))


if __name__ == "__main__":
    main()
