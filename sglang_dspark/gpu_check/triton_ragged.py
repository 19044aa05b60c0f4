"""SGLang's Triton attention with ragged verification: ``--attention-backend dspark_triton``.

SGLang 0.5.23 divides the rows of a verification into equal blocks in its Triton backend, and the backends that do not
need compiled packages. The kernel itself reads each request's rows from ``qo_indptr``, so this backend writes the
lengths there, padded to the captured slots and tokens, in the buffers that a captured graph reads.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from sglang.srt.speculative.ragged_verify import resolve_ragged_verify_layout


class RaggedTritonBackend(TritonAttnBackend):  # type: ignore[misc]
    """Verify a different number of rows per request, with and without captured graphs.

    ``max_extend_len`` stays the whole block: a request verifies at most that, and the kernel's tile holds more rows.
    Padding rows beyond it belong to no request and are not read.
    """

    supports_ragged_verify_graph: bool = True

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Prepare a step without a graph."""
        super().init_forward_metadata(forward_batch)
        if (offsets := _offsets(forward_batch)) is not None:
            self.forward_metadata.qo_indptr = offsets

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        """Prepare the capture of a graph, and each of its replays."""
        if in_capture and forward_batch.forward_mode.is_target_verify():
            # SGLang makes a mask for backend classes that it does not know; the rows of a chain are causal without one.
            forward_batch.spec_info.custom_mask = None
        super().init_forward_metadata_out_graph(forward_batch, in_capture)
        if (offsets := _offsets(forward_batch)) is not None:
            self.qo_indptr[: len(offsets)].copy_(offsets)


def _offsets(forward_batch: Any) -> Any:
    """Return the first row of each request of a ragged verification, int32 [requests + 1]; None in other steps."""
    if not forward_batch.forward_mode.is_target_verify():
        return None
    layout = resolve_ragged_verify_layout(forward_batch)
    if layout is None:
        return None
    return layout.padded_to_bucket(padded_bs=len(forward_batch.req_pool_indices)).qo_indptr_device
