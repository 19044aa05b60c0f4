"""The random generator against published vectors, and its noise against its distribution."""

from __future__ import annotations

import torch
from scipy import stats

from dspark_kernels import philox


def test_words_are_the_published_ones() -> None:
    """Known answers of philox4x32-10 (Random123, ``kat_vectors``)."""
    zero, ones = torch.zeros(1, dtype=torch.int64), torch.full((1,), -1)
    assert [int(w) for w in philox.words(0, zero, zero, zero, zero, 0)] == [
        0x6627E8D5,
        0xE169C58D,
        0xBC57AC4C,
        0x9B00DBD8,
    ]
    words = philox.words(-1, ones, ones, ones, zero, 0)
    assert [int(w) for w in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_noise_is_exponential() -> None:
    names = torch.arange(64)
    drawn = philox.reference_exponentials(3, names, names, torch.zeros_like(names), 0, 1000, philox.DRAFT)
    assert stats.kstest(drawn.flatten().numpy(), "expon").pvalue > 1e-3


def test_what_names_a_draw_changes_it() -> None:
    names = torch.tensor([5])
    step = torch.zeros_like(names)

    def drawn(seed: int = 1, request: int = 5, position: int = 5, at: int = 0, domain: int = philox.DRAFT) -> float:
        given = torch.tensor([request]), torch.tensor([position]), step + at
        return float(philox.reference_exponentials(seed, *given, 0, 1, domain)[0, 0])

    changed = [
        drawn(seed=2),
        drawn(seed=1 + (1 << 40)),
        drawn(request=6),
        drawn(request=5 + (1 << 40)),
        drawn(position=6),
        drawn(at=1),
        drawn(domain=philox.COIN),
        drawn(domain=philox.RESIDUAL),
    ]
    assert len({drawn(), *changed}) == len(changed) + 1
    # The next round's first draft must not share the noise of this round's second, which may be unverified.
    assert drawn(position=6) != drawn(at=1)
