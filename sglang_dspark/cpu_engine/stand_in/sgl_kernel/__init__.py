"""A stand-in for the CPU build of ``sgl_kernel``: the functions that serving text with DSPARK calls, in PyTorch.

Anything else that is imported from here fails and says its name.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import NoReturn

import torch


def _ranges(rows: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> Iterator[tuple[int, int, int, int]]:
    """(row of the pool, first position, position after the last, offset in the packed tensor) of each request."""
    offset = 0
    for row, first, last in zip(rows.tolist(), start.tolist(), end.tolist(), strict=True):
        yield row, first, last, offset
        offset += last - first


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Writes packed cache slots to each request's positions ``start_offset`` to ``end_offset``."""
    for row, first, last, offset in _ranges(req_pool_indices, start_offset, end_offset):
        req_to_token[row, first:last] = out_cache_loc[offset : offset + last - first].to(req_to_token.dtype)


def assign_extend_cache_locs_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Reads each request's cache slots at positions ``start_offset`` to ``end_offset`` into ``out_cache_loc``."""
    for row, first, last, offset in _ranges(req_pool_indices, start_offset, end_offset):
        out_cache_loc[offset : offset + last - first] = req_to_token[row, first:last].to(out_cache_loc.dtype)


def copy_all_layer_kv_cache_cpu(
    data_ptrs: torch.Tensor, strides: torch.Tensor, tgt_loc: torch.Tensor, src_loc: torch.Tensor
) -> None:
    """Copies cache rows ``src_loc`` to ``tgt_loc`` in every buffer; all are read before any is written."""
    targets, sources = tgt_loc.tolist(), src_loc.tolist()
    for start, stride in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        rows = [ctypes.string_at(start + source * stride, stride) for source in sources]
        for target, row in zip(targets, rows, strict=True):
            ctypes.memmove(start + target * stride, row, stride)


def _not_here(name: str) -> Callable[..., NoReturn]:
    def call(*arguments: object, **keywords: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} has no stand-in on the CPU engine of sglang-dspark")

    call.__name__ = name
    return call


# Imported by modules that DSPARK loads, and called by what it does not use.
assign_draft_cache_locs_contiguous_cpu = _not_here("assign_draft_cache_locs_contiguous_cpu")
build_tree_kernel_efficient_cpu = _not_here("build_tree_kernel_efficient_cpu")
fill_accept_out_cache_loc_cpu = _not_here("fill_accept_out_cache_loc_cpu")
fill_bonus_tokens_cpu = _not_here("fill_bonus_tokens_cpu")
rotate_input_ids_cpu = _not_here("rotate_input_ids_cpu")
verify_tree_greedy_cpu = _not_here("verify_tree_greedy_cpu")


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"sgl_kernel.{name} has no stand-in on the CPU engine of sglang-dspark")
