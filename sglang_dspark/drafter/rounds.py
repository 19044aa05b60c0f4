"""The rounds that :mod:`sglang_dspark.drafter.offline_rounds` makes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class OfflineRounds(NamedTuple):
    """R rounds of several requests."""

    confidence_logits: NDArray[np.float32]
    """[R, gamma], raw; NaN for a drafter without a confidence head."""

    accepted: NDArray[np.int64]
    """[R] drafts accepted, 0..gamma."""

    texts: list[list[int]]
    """Each request's tokens, prompt included."""

    request: NDArray[np.int64]
    """[R] indices into ``texts``."""

    begin: NDArray[np.int64]
    """[R] tokens of the answer before the round's drafts."""


def join(parts: Sequence[OfflineRounds]) -> OfflineRounds:
    """Concatenate rounds, numbering their requests anew."""
    offsets = np.cumsum([0, *(len(part.texts) for part in parts)])
    return OfflineRounds(
        np.concatenate([part.confidence_logits for part in parts]),
        np.concatenate([part.accepted for part in parts]),
        [text for part in parts for text in part.texts],
        np.concatenate([part.request + offset for part, offset in zip(parts, offsets, strict=False)]),
        np.concatenate([part.begin for part in parts]),
    )
