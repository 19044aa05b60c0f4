"""Counter-based random numbers: seed, request, position and step determine a draw, independent of the batch.

Philox4x32-10 (Salmon et al., SC 2011) with the seed as key and (quad + step, request low, request high, position +
domain) as counter. The four words of a counter serve tokens ``4 * quad`` to ``4 * quad + 3`` of the whole vocabulary,
so shards agree. The position is the anchor's and the step counts within the round. If the two were added, an
unverified draft and a draft of the next round would share their noise; since the confidences of the former help decide
whether the latter is verified, that would not be lossless.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

DRAFT: Final = 0
COIN: Final = 1
RESIDUAL: Final = 2
# Room for 2 ** 24 quads and 256 steps, 2 ** 29 positions and 8 domains.
STEP_SHIFT: Final = 24
DOMAIN_SHIFT: Final = 29
_WORD: Final = 0xFFFFFFFF
_SCALE: Final = 2.0**-32
_SERIES_BELOW: Final = 1.0 / 64.0

_K_WORD = tl.constexpr(_WORD)
_K_SCALE = tl.constexpr(_SCALE)
_K_SERIES_BELOW = tl.constexpr(_SERIES_BELOW)
_K_STEP = tl.constexpr(STEP_SHIFT)
_K_DOMAIN = tl.constexpr(DOMAIN_SHIFT)


@triton.jit
def uniform_of(bits):
    """Map uint32 words to float32 in (0, 1]; small words convert exactly, so small values are precise."""
    return (bits.to(tl.float32) + 0.5) * _K_SCALE


@triton.jit
def exponential_of(bits):
    """Map uint32 words to standard exponentials; those near 0, which win a Gumbel-max, by a series."""
    u = uniform_of(bits)
    series = u * (1.0 + u * (0.5 + u * (0.33333334 + u * 0.25)))
    return tl.where(u < _K_SERIES_BELOW, series, -tl.log(1.0 - u))


@triton.jit
def exponentials(seed, request, position, step, first, DOMAIN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Exponential noise of a tile that starts at token ``first``, a multiple of 4: float32 [ROWS, COLUMNS].

    ``request`` and ``position`` are int64 [ROWS], ``step`` int32 [ROWS].
    """
    quad = first // 4 + tl.arange(0, COLUMNS // 4)
    shape: tl.constexpr = [ROWS, COLUMNS // 4]
    c0 = (quad[None, :] + (step << _K_STEP)[:, None]).to(tl.uint32)
    c1 = tl.broadcast_to((request & _K_WORD).to(tl.uint32)[:, None], shape)
    c2 = tl.broadcast_to(((request >> 32) & _K_WORD).to(tl.uint32)[:, None], shape)
    c3 = tl.broadcast_to((position + (DOMAIN << _K_DOMAIN)).to(tl.uint32)[:, None], shape)
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, c2, c3)
    return exponential_of(tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3)))


@triton.jit
def coin(seed, request, position, step, DOMAIN: tl.constexpr):
    """Uniform float32 in (0, 1] for each ``request`` and ``position`` int64 and ``step`` int32."""
    c1 = (request & _K_WORD).to(tl.uint32)
    c2 = ((request >> 32) & _K_WORD).to(tl.uint32)
    c3 = (position + (DOMAIN << _K_DOMAIN)).to(tl.uint32)
    w0, _w1, _w2, _w3 = tl.philox(seed, (step << _K_STEP).to(tl.uint32), c1, c2, c3)
    return uniform_of(w0)


def words(
    seed: int, quads: torch.Tensor, requests: torch.Tensor, positions: torch.Tensor, steps: torch.Tensor, domain: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """PyTorch reference of the generator: 32-bit words in int64 tensors of the arguments' common shape."""
    c = [
        (quads + (steps << STEP_SHIFT)) & _WORD,
        requests & _WORD,
        (requests >> 32) & _WORD,
        (positions + (domain << DOMAIN_SHIFT)) & _WORD,
    ]
    c0, c1, c2, c3 = torch.broadcast_tensors(*c)
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(10):
        high0, low0 = _product(c0, 0xD2511F53)
        high1, low1 = _product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def _product(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of a 32 by 32 bit product, computed in 16-bit halves to fit int64."""
    low, high = word * (factor & 0xFFFF), word * (factor >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def uniforms(bits: torch.Tensor) -> torch.Tensor:
    """PyTorch reference of :func:`uniform_of`."""
    return (bits.float() + 0.5) * _SCALE


def reference_exponentials(
    seed: int,
    requests: torch.Tensor,
    positions: torch.Tensor,
    steps: torch.Tensor,
    first: int,
    count: int,
    domain: int,
) -> torch.Tensor:
    """PyTorch reference of :func:`exponentials`: float32 [R, count] for tokens ``first`` to ``first + count - 1``."""
    quads = torch.arange(first // 4, (first + count + 3) // 4, device=requests.device)
    bits = torch.stack(
        words(seed, quads[None, :], requests[:, None], positions[:, None], steps[:, None], domain), dim=-1
    )
    return -torch.log1p(-uniforms(bits.flatten(1)[:, :count]))


def reference_coins(seed: int, requests: torch.Tensor, positions: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """PyTorch reference of :func:`coin` in domain COIN: float32 of the arguments' common shape."""
    return uniforms(words(seed, torch.zeros_like(requests), requests, positions, steps, COIN)[0])
