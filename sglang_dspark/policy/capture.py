"""Step sizes that a server captures as CUDA graphs, in verify tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def sglang_tiers(max_requests: int, gamma: int, batches: Sequence[int] | None = None) -> NDArray[np.int64]:
    """Captured verify tokens of an SGLang server: its captured batch sizes times ``gamma + 1``.

    Source: ``generate_decode_cuda_graph_batch_sizes`` for speculative decoding, ``get_batch_sizes_to_capture`` (which
    adds ``max_requests`` itself) and ``_build_ragged_verify_token_buckets``, sglang 0.5.23. ``gamma`` 0 is a server
    without speculation, which captures batch sizes only.

    Args:
        max_requests: The largest captured batch, in requests.
        gamma: Drafts a block.
        batches: The batches that ``--cuda-graph-bs-decode`` lists, in place of SGLang's own.

    Returns:
        int64, ascending.
    """
    sizes: Sequence[int]
    if batches is not None:
        sizes = batches
    elif gamma == 0:
        sizes = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, max_requests + 1, 32)]
    else:
        sizes = [
            *range(1, 9),
            *range(10, 33, 2),
            *range(40, 65, 4),
            *range(72, 257, 8),
            *range(272, max_requests + 1, 16),
        ]
    kept = sorted({size for size in sizes if size <= max_requests} | {max_requests})
    return np.asarray(kept, np.int64) * (gamma + 1)


def vllm_tiers(max_tokens: int) -> NDArray[np.int64]:
    """Captured tokens of a vLLM server: 1, 2, 4, then every 8 to 256, then every 16 to ``max_tokens``.

    Source: ``VllmConfig._set_cudagraph_sizes``; the spacing is visible in the published B300 cost curve.
    """
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, max_tokens + 1, 16)]
    return np.asarray(sorted({size for size in sizes if size <= max_tokens} | {max_tokens}), np.int64)
