"""One pass over the vocabulary for one draft position: corrected logits, sample and log-sum-exp, tile by tile.

Each program holds the latents of its rows and visits every ``parts``-th tile of the vocabulary. ``W2`` and the base
logits are read once for each block of rows, and a program writes five numbers a row.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from dspark_kernels import launch_configs
from dspark_kernels.batches import DraftBatch
from dspark_kernels.heads import NO_TOKEN
from dspark_kernels.launch_configs import ScanConfig
from dspark_kernels.markov_tile import corrected, load_latents
from dspark_kernels.philox import DRAFT, exponentials, reference_exponentials

# Fields of a partial result: best key, its token (int32 bits), its scaled logit, greatest scaled logit, and the
# mass relative to it.
FIELDS: Final = 5
_K_DRAFT = tl.constexpr(DRAFT)
_K_NONE = tl.constexpr(NO_TOKEN)


# One compiled kernel serves every batch size, position, seed and alignment of the tokens.
@triton.jit(
    do_not_specialize=["rows", "tokens_stride", "step", "vocab_start", "seed"],
    do_not_specialize_on_alignment=["tokens"],
)
def markov_scan(
    logits,
    latents,
    tokens,
    w2,
    temperatures,
    requests,
    positions,
    partials,
    kept,
    rows,
    width,
    rank,
    vocab_start,
    step,
    seed,
    logits_stride,
    latents_stride,
    tokens_stride,
    kept_stride,
    GATHER: tl.constexpr,
    SAMPLE: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_VOCAB: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    STAGES: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    part, parts = tl.program_id(1), tl.num_programs(1)
    row64 = row.to(tl.int64)
    in_rows = row < rows
    inner = tl.arange(0, BLOCK_RANK)
    in_rank = inner < rank
    place = row64
    if GATHER:
        place = tl.load(tokens + row * tokens_stride, in_rows, 0)
    latent = load_latents(latents, place, in_rows, inner, in_rank, latents_stride, w2.dtype.element_ty)
    temperature = tl.load(temperatures + row, in_rows, 0.0)
    sampled = temperature > 0
    scale = 1.0 / tl.where(sampled, temperature, 1.0)
    if SAMPLE:
        request = tl.load(requests + row, in_rows, 0)
        position = tl.load(positions + row, in_rows, 0)
        steps = row * 0 + step

    best = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    token = tl.full([BLOCK_ROWS], _K_NONE, tl.int32)
    chosen = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    top = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_ROWS], tl.float32)
    for tile in tl.range(part, tl.cdiv(width, BLOCK_VOCAB), parts, num_stages=STAGES):
        column = tile * BLOCK_VOCAB + tl.arange(0, BLOCK_VOCAB)
        in_width = column < width
        inside = in_rows[:, None] & in_width[None, :]
        base = tl.load(logits + row64[:, None] * logits_stride + column[None, :], inside, float("-inf"))
        value = corrected(latent, w2, base.to(tl.float32), column, in_width, inner, in_rank, rank, PRECISION)
        if KEEP:
            # Acceptance reads the stored values, so the draw must use them as rounded.
            rounded = value.to(kept.dtype.element_ty)
            tl.store(kept + row64[:, None] * kept_stride + column[None, :], rounded, inside)
            value = rounded.to(tl.float32)
        # NaN wins, as in torch.argmax; as infinity it makes the row's log-sum-exp NaN.
        scaled = value * scale[:, None]
        scaled = tl.where(scaled == scaled, scaled, float("inf"))
        key = scaled
        if SAMPLE:
            noise = exponentials(
                seed, request, position, steps, vocab_start + tile * BLOCK_VOCAB, _K_DRAFT, BLOCK_ROWS, BLOCK_VOCAB
            )
            key = tl.where(sampled[:, None], scaled - tl.log(noise), scaled)
        tile_best = tl.max(key, 1)
        number = column[None, :] + vocab_start
        tile_token = tl.min(tl.where((key == tile_best[:, None]) & in_width[None, :], number, _K_NONE), 1)
        tile_chosen = tile_best
        if SAMPLE:
            tile_chosen = tl.max(tl.where(number == tile_token[:, None], scaled, float("-inf")), 1)
        better = (tile_best > best) | (token == _K_NONE)
        best = tl.where(better, tile_best, best)
        token = tl.where(better, tile_token, token)
        chosen = tl.where(better, tile_chosen, chosen)
        higher = tl.maximum(top, tl.max(scaled, 1))
        origin = tl.where(higher > float("-inf"), higher, 0.0)
        mass = mass * tl.exp(top - origin) + tl.sum(tl.exp(scaled - origin[:, None]), 1)
        top = higher
    out = partials + part * rows + row
    field = parts * rows
    tl.store(out, best, in_rows)
    tl.store(out + field, token.to(tl.float32, bitcast=True), in_rows)
    tl.store(out + 2 * field, chosen, in_rows)
    tl.store(out + 3 * field, top, in_rows)
    tl.store(out + 4 * field, mass, in_rows)


def scan(
    batch: DraftBatch,
    step: int,
    tokens: torch.Tensor,
    latents: torch.Tensor | None,
    *,
    sample: bool,
    vocab_start: int = 0,
    kept: torch.Tensor | None = None,
    config: ScanConfig | None = None,
) -> torch.Tensor:
    """Launch the pass for position ``step`` of a checked batch.

    Args:
        tokens: int64 [R], the previous tokens; read for a vanilla head.
        latents: [R, K] of the head's dtype for gated and rnn heads, rows of any stride.
        sample: Whether any temperature may be above 0; if not, all rows are argmax.
        vocab_start: First token of the shard, a multiple of 4.
        kept: As of :func:`dspark_kernels.draft.draft_block`.

    Returns:
        float32 [FIELDS, parts, R]; see FIELDS.
    """
    head, logits = batch.head, batch.base_logits[:, step]
    written = None if kept is None else kept[:, step]
    rows, width = logits.shape
    wide = torch.float32 in (logits.dtype, logits.dtype if written is None else written.dtype)
    config = config or launch_configs.draft_scan(logits.device, rows, head.w2.element_size(), wide)
    grid = (triton.cdiv(rows, config.block_rows), config.parts(width, rows))
    partials = torch.empty((FIELDS, grid[1], rows), dtype=torch.float32, device=logits.device)
    source = head.w1 if latents is None else latents
    markov_scan[grid](
        logits,
        source,
        tokens,
        head.w2,
        batch.temperatures,
        batch.requests,
        batch.positions,
        partials,
        partials if written is None else written,
        rows,
        width,
        head.rank,
        vocab_start,
        step,
        batch.seed,
        logits.stride(0),
        source.stride(0),
        tokens.stride(0),
        0 if written is None else written.stride(0),
        GATHER=latents is None,
        SAMPLE=sample,
        KEEP=written is not None,
        PRECISION=launch_configs.of(logits.device).precision,
        BLOCK_ROWS=config.block_rows,
        BLOCK_VOCAB=config.block_vocab,
        BLOCK_RANK=max(16, triton.next_power_of_2(head.rank)),
        STAGES=config.stages,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return partials


def reference_scan(
    batch: DraftBatch,
    step: int,
    latent: torch.Tensor,
    *,
    sample: bool = True,
    vocab_start: int = 0,
    kept: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch reference before the reduction: scaled logits and keys, float32 [R, V].

    Args:
        latent: float32 [R, K].
    """
    positions, temperatures = batch.positions, batch.temperatures
    value = batch.base_logits[:, step].float() + latent @ batch.head.w2.float().T
    if kept is not None:
        kept[:, step] = value
        value = kept[:, step].float()
    scaled = value / torch.where(temperatures > 0, temperatures, 1.0)[:, None]
    scaled = scaled.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if not sample:
        return scaled, scaled
    steps = torch.full_like(positions, step)
    noise = reference_exponentials(batch.seed, batch.requests, positions, steps, vocab_start, value.shape[1], DRAFT)
    return scaled, torch.where((temperatures > 0)[:, None], scaled - noise.log(), scaled)
