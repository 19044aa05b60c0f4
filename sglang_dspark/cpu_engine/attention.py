"""SGLang's ``torch_native`` attention with the two forms that DSPARK adds: target verification and the draft block."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.speculative.ragged_verify import resolve_ragged_verify_layout
from torch.nn.functional import scaled_dot_product_attention


class VerifyBackend(TorchNativeAttnBackend):  # type: ignore[misc]
    """Every extension is a row of new queries after a request's context: prefill, verification (uniform or ragged) and
    the draft block, whose positions see each other in both directions (``AttentionType.ENCODER_ONLY``)."""

    def init_forward_metadata(self, forward_batch: Any) -> None:
        super().init_forward_metadata(forward_batch)
        # By window, None for a block whose positions see each other: layers of a kind share their mask.
        self._masks: dict[int | None, torch.Tensor] = {}
        if forward_batch.forward_mode.is_target_verify():
            before = forward_batch.seq_lens
            layout = resolve_ragged_verify_layout(forward_batch)
            if layout is None:
                new = torch.full_like(before, int(forward_batch.spec_info.draft_token_num))
            else:
                new = layout.verify_lens
        elif forward_batch.forward_mode.is_extend():
            before, new = forward_batch.extend_prefix_lens, forward_batch.extend_seq_lens
        else:
            return
        before, new = before.long()[:, None], new.long()[:, None]
        # Requests are padded to the longest: with repeats of their last query, and with keys that no query sees.
        query, key = torch.arange(int(new.max())), torch.arange(int((before + new).max()))
        self._is_query, self._is_key = query < new, key < before + new
        self._rows = new.cumsum(0) - new + torch.minimum(query, new - 1)
        self._positions = before + torch.minimum(query, new - 1)
        table = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices]
        self._slots = table.long().gather(1, torch.minimum(key, before + new - 1))

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
        made = scaled_dot_product_attention(
            queries[self._rows].transpose(1, 2),
            self.token_to_kv_pool.get_key_buffer(layer.layer_id)[self._slots].transpose(1, 2).to(q.dtype),
            self.token_to_kv_pool.get_value_buffer(layer.layer_id)[self._slots].transpose(1, 2).to(q.dtype),
            attn_mask=self._mask_of(layer),
            scale=layer.scaling,
            enable_gqa=layer.tp_q_head_num != layer.tp_k_head_num,
        ).transpose(1, 2)
        out = queries.new_zeros(len(queries), layer.tp_q_head_num, layer.v_head_dim)
        out[self._rows[self._is_query]] = made[self._is_query]
        return out.view(q.shape[0], -1)

    def _mask_of(self, layer: Any) -> torch.Tensor:
        """Keys that each query sees: bool [requests, 1, queries, keys].

        A window is the number of earlier positions that a query sees beside its own; -1 for all.
        """
        window = -1 if layer.sliding_window_size is None else int(layer.sliding_window_size)
        bidirectional = layer.attn_type == AttentionType.ENCODER_ONLY
        if layer.is_cross_attention or (bidirectional and window >= 0):
            raise NotImplementedError(
                "the CPU engine of sglang-dspark has no cross-attention and no bidirectional sliding window"
            )
        kind = None if bidirectional else window
        if kind not in self._masks:
            key, position = torch.arange(self._slots.shape[1]), self._positions[:, None, :, None]
            sees = self._is_key[:, None, None] if bidirectional else key <= position
            self._masks[kind] = sees & (key >= position - window) if window >= 0 else sees
        return self._masks[kind]
