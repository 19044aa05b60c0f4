"""SGLang's ``torch_native`` attention with the two forms that DSPARK adds: target verification and the draft block."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.speculative.ragged_verify import resolve_ragged_verify_layout
from torch.nn.functional import scaled_dot_product_attention


class Span(NamedTuple):
    """The queries of one request in a step.

    Attributes:
        slots: int64 [before + new], where its keys and values are, new ones last.
        new: Queries.
    """

    slots: torch.Tensor
    new: int


def causal_mask(before: int, new: int, window: int) -> torch.Tensor | None:
    """Causal mask of a request's new queries: bool [new, before + new]; None where every query sees everything.

    Args:
        window: Earlier positions that a query sees beside its own; -1 for all.
    """
    if window >= 0:
        return torch.ones(new, before + new, dtype=torch.bool).tril(before).triu(before - window)
    return torch.ones(new, before + new, dtype=torch.bool).tril(before) if new > 1 else None


class VerifyBackend(TorchNativeAttnBackend):  # type: ignore[misc]
    """Every extension is a row of new queries after a request's context: prefill, verification (uniform or ragged) and
    the draft block, whose positions see each other in both directions (``AttentionType.ENCODER_ONLY``)."""

    def init_forward_metadata(self, forward_batch: Any) -> None:
        super().init_forward_metadata(forward_batch)
        self._spans: list[Span] = []
        # By window: layers of a kind share their masks.
        self._masks: dict[int, list[torch.Tensor | None]] = {}
        if forward_batch.forward_mode.is_target_verify():
            before = forward_batch.seq_lens.tolist()
            layout = resolve_ragged_verify_layout(forward_batch)
            if layout is None:
                new = [int(forward_batch.spec_info.draft_token_num)] * len(before)
            else:
                new = layout.verify_lens.tolist()
        elif forward_batch.forward_mode.is_extend():
            before = forward_batch.extend_prefix_lens.tolist()
            new = forward_batch.extend_seq_lens.tolist()
        else:
            return
        table = self.req_to_token_pool.req_to_token
        for row, old, count in zip(forward_batch.req_pool_indices.tolist(), before, new, strict=True):
            self._spans.append(Span(table[row, : old + count].long(), count))

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
        **_: Any,
    ) -> torch.Tensor:
        """Attention of a step's new tokens.

        Args:
            q, k, v: [tokens, heads * head_dim].

        Returns:
            [tokens, heads * head_dim]; zeros in rows of no request.
        """
        if save_kv_cache and k is not None:
            where = KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc)
            self.token_to_kv_pool.set_kv_buffer(layer, where, k, v)
        queries = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        out = queries.new_zeros(len(queries), layer.tp_q_head_num, layer.v_head_dim)
        start = 0
        for span, mask in zip(self._spans, self._masks_of(layer), strict=True):
            rows = slice(start, start + span.new)
            out[rows] = scaled_dot_product_attention(
                queries[rows].transpose(0, 1)[None],
                keys[span.slots].transpose(0, 1)[None].to(q.dtype),
                values[span.slots].transpose(0, 1)[None].to(q.dtype),
                attn_mask=mask,
                scale=layer.scaling,
                enable_gqa=layer.tp_q_head_num != layer.tp_k_head_num,
            )[0].transpose(0, 1)
            start += span.new
        return out.view(q.shape[0], -1)

    def _masks_of(self, layer: Any) -> list[torch.Tensor | None]:
        """One mask a span; None where every query sees everything."""
        window = -1 if layer.sliding_window_size is None else int(layer.sliding_window_size)
        if layer.is_cross_attention or (layer.attn_type == AttentionType.ENCODER_ONLY and window >= 0):
            raise NotImplementedError(
                "the CPU engine of sglang-dspark has no cross-attention and no bidirectional sliding window"
            )
        if layer.attn_type == AttentionType.ENCODER_ONLY:
            return [None] * len(self._spans)
        if window not in self._masks:
            self._masks[window] = [causal_mask(len(span.slots) - span.new, span.new, window) for span in self._spans]
        return self._masks[window]
