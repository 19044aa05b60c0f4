"""KV pool of a server: the memory that SGLang 0.5.23 reserves for its flags, and the tokens that remain."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from sglang_dspark.shapes.gpus import Gpu
from sglang_dspark.shapes.model import DraftShape, ModelShape

MIB = 2.0**20
# Least number of tokens for which activations are reserved (``handle_gpu_memory_settings``).
LEAST_CHUNK = 2048
# A row of the request table has an int32 for each token of the longest context.
LONGEST_CONTEXT = 131_072
_STATE_RATIO = 0.9
_LARGE_BYTES = 60 * 2.0**30

Bytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class PoolFlags(BaseModel):
    """Server flags that take memory from the KV pool.

    Attributes:
        max_running_requests: Largest number of running requests.
        captured_requests: Requests of the largest captured batch; 0 if nothing is captured.
        chunked_prefill_size: Prompt tokens of one prefill step.
        gamma: Drafts per block.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_running_requests: Count
    captured_requests: Annotated[int, Field(ge=0)]
    chunked_prefill_size: Count
    gamma: Count


class DefaultFlags(NamedTuple):
    """Flags that SGLang 0.5.23 chooses by the memory of a GPU (``handle_gpu_memory_settings``).

    Attributes:
        chunked_prefill_size: Prompt tokens of one prefill step.
        captured_requests: Largest captured batch, at most the running limit where that is stated.
    """

    chunked_prefill_size: int
    captured_requests: int


def default_flags(gpu: Gpu, tp: int) -> DefaultFlags:
    """Defaults of a server on ``tp`` GPUs."""
    gib = gpu.memory_bytes / 2**30
    large_group = tp >= 4
    if gib < 20:
        return DefaultFlags(2048, 8)
    if gib < 35:
        return DefaultFlags(4096, 160 if large_group else 48)
    if gib < 60:
        return DefaultFlags(4096, 160 if large_group else 32)
    if gib < 160:
        return DefaultFlags(8192, 512 if large_group else 256)
    return DefaultFlags(16384, 512)


class FlagCosts(BaseModel):
    """Bytes on one GPU that the flags of a server take from its KV pool.

    The reserve (``handle_gpu_memory_settings``, ``reserve_for_graph_mb``) is ``base_bytes`` + ``chunk_token_bytes`` x
    prefill chunk + ``captured_request_bytes`` x captured requests, and ``least_bytes`` at least. Each of
    ``max_running_requests`` + 1 slots holds ``slot_bytes`` + ``slot_position_bytes`` x (gamma + 1). Omitted: graphs of
    prefill steps (about 60 of 8 MiB each) and NCCL's buffers.

    Attributes:
        token_bytes: Bytes per context token, including the drafter's KV.
        plain_token_bytes: The same without speculation; ``token_bytes`` if None.
        slot_bytes: Bytes per request besides its context tokens: its row of the request table, state, windows.
        slot_position_bytes: Additional bytes per request for each token that a round may write.
        plain_slot_bytes: Bytes per request of a server without speculation; ``slot_bytes`` if None.
        chunk_token_bytes: Bytes of activations per token of a prefill chunk.
        captured_request_bytes: Bytes of graphs of decode steps, per request of the largest.
        base_bytes: Fixed bytes of the reserve: 512 MiB plus 128 MiB per tensor-parallel GPU.
        least_bytes: Fewest bytes of the reserve: 10 GiB on GPUs of more than 60 GiB; 0 on smaller ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    token_bytes: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    plain_token_bytes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    slot_bytes: Bytes = 4.0 * LONGEST_CONTEXT
    slot_position_bytes: Bytes = 0.0
    plain_slot_bytes: Bytes | None = None
    chunk_token_bytes: Bytes = 1.5 * MIB
    captured_request_bytes: Bytes = 2 * MIB
    base_bytes: Bytes = 640 * MIB
    least_bytes: Bytes = 10240 * MIB

    def tokens(self, free_bytes: float, speculative: bool) -> int:
        """Context tokens in ``free_bytes`` of one GPU, rounded towards zero."""
        plain = self.plain_token_bytes
        return int(free_bytes / (self.token_bytes if speculative or plain is None else plain))

    def reserve_bytes(self, flags: PoolFlags) -> float:
        """Reserve for activations and graphs."""
        chunk_bytes = self.chunk_token_bytes * max(flags.chunked_prefill_size, LEAST_CHUNK)
        graph_bytes = self.captured_request_bytes * flags.captured_requests
        return max(self.least_bytes, self.base_bytes + chunk_bytes + graph_bytes)

    def slots_bytes(self, flags: PoolFlags, speculative: bool) -> float:
        """Bytes of all request slots, including one for padding."""
        if speculative:
            slot_bytes = self.slot_bytes + self.slot_position_bytes * (flags.gamma + 1)
        else:
            slot_bytes = self.slot_bytes if self.plain_slot_bytes is None else self.plain_slot_bytes
        return (flags.max_running_requests + 1) * slot_bytes

    def taken_bytes(self, flags: PoolFlags, speculative: bool) -> float:
        """Bytes that ``flags`` take from the pool."""
        return self.reserve_bytes(flags) + self.slots_bytes(flags, speculative)


def flag_costs(model: ModelShape, draft: DraftShape | None, tp: int, gpu: Gpu | None = None) -> FlagCosts:
    """Flag costs from a model's shape, on one of ``tp`` GPUs; without ``gpu``, on one of more than 60 GiB."""
    small = {"least_bytes": 0.0} if gpu is not None and gpu.memory_bytes <= _LARGE_BYTES else {}
    row_bytes = 4.0 * LONGEST_CONTEXT
    plain_token_bytes = model.pool_bytes_per_token(tp) / tp
    drafted_bytes = draft.kv_bytes_per_token(model, tp) / tp if draft is not None else 0.0

    def slot_bytes(speculative: bool) -> float:
        return sum(one.slot_bytes(model.layers, tp, speculative=speculative) for one in model.attention)

    return FlagCosts(
        token_bytes=plain_token_bytes + drafted_bytes,
        plain_token_bytes=plain_token_bytes,
        slot_bytes=row_bytes + slot_bytes(speculative=True),
        slot_position_bytes=sum(one.slot_position_bytes(model.layers, tp) for one in model.attention),
        plain_slot_bytes=row_bytes + slot_bytes(speculative=False),
        base_bytes=(512 + 128 * tp) * MIB,
        **small,
    )


def most_running(
    gpu: Gpu, tp: int, memory_fraction: float, model: ModelShape, draft: DraftShape, gamma: int
) -> int | None:
    """Largest number of requests whose recurrent states SGLang reserves; None for models without such states.

    By default states get 0.9 times the memory of KV (``mamba_full_memory_ratio``), and SGLang lowers the running limit
    to them.
    """
    if not any(one.recurrent for one in model.attention):
        return None
    costs = flag_costs(model, draft, tp)
    slot_bytes = costs.slot_bytes + costs.slot_position_bytes * (gamma + 1)
    free_bytes = gpu.memory_bytes * memory_fraction - (model.weight_bytes() + draft.weight_bytes(model)) / tp
    return max(0, int(free_bytes * _STATE_RATIO / (1 + _STATE_RATIO) / slot_bytes) - 1)


def kv_capacity_tokens(
    gpu: Gpu, tp: int, memory_fraction: float, model: ModelShape, draft: DraftShape | None, flags: PoolFlags
) -> int:
    """Context tokens that fit beside the weights and the request slots; 0 or less if those do not fit.

    Args:
        gpu: One of ``tp`` equal GPUs.
        tp: Tensor-parallel GPUs.
        memory_fraction: Share of the memory for weights, slots and KV (SGLang's ``--mem-fraction-static``); the rest
            holds the reserve of ``flags``.
        model: The target.
        draft: The draft model; None without speculation.
    """
    weights = model.weight_bytes() + (draft.weight_bytes(model) if draft is not None else 0.0)
    costs = flag_costs(model, draft, tp)
    speculative = draft is not None
    free_bytes = gpu.memory_bytes * memory_fraction - weights / tp - costs.slots_bytes(flags, speculative)
    return costs.tokens(free_bytes, speculative)
