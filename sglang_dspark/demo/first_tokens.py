"""First tokens at temperature 1, against the target's own probabilities or another server's tokens."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from sglang_dspark.demo import reference
from sglang_dspark.demo.server import Server

TOKENS = 3
SAMPLES = 20_480
AT_ONCE = 32
LEAST_EXPECTED = 5.0

Cell = tuple[int, ...]


class Fit(NamedTuple):
    """Pearson's test of counts against expectations."""

    statistic: float
    degrees: int
    p_value: float

    def power(self, alpha: float) -> float:
        """Chance that a repetition rejects at ``alpha``, from a low guess (three sigma) at the noncentrality."""
        noncentrality = self.statistic - self.degrees
        low = noncentrality - 3 * np.sqrt(2 * (self.degrees + 2 * max(noncentrality, 0)))
        return float(stats.ncx2.sf(stats.chi2.isf(alpha, self.degrees), self.degrees, max(low, 1e-9)))


def draw(server: Server, text: str, samples: int = SAMPLES) -> Counter[Cell]:
    """Counts of the first ``TOKENS`` tokens after ``text``."""
    sampling = {"temperature": 1.0, "max_new_tokens": TOKENS, "n": AT_ONCE, "ignore_eos": True}

    def ask(_: int) -> list[Cell]:
        answers = server.post("/generate", {"text": text, "sampling_params": sampling})
        return [tuple(answer["output_ids"]) for answer in answers]

    with ThreadPoolExecutor(2) as pool:
        return Counter(cell for cells in pool.map(ask, range(samples // AT_ONCE)) for cell in cells)


@torch.no_grad()
def exact(text: str, dtype: torch.dtype = torch.float32) -> dict[Cell, float]:
    """Joint probabilities of the first tokens, of all cells that are expected often enough to be counted alone.

    Args:
        dtype: Of the target's weights and activations.
    """
    prompt = reference.tokenizer()(text)["input_ids"]
    cells: dict[Cell, float] = {(): 1.0}
    for _ in range(TOKENS):
        grown: dict[Cell, float] = {}
        prefixes = list(cells)
        for start in range(0, len(prefixes), 64):
            part = prefixes[start : start + 64]
            logits = reference.model(dtype)(torch.tensor([prompt + list(cell) for cell in part])).logits[:, -1]
            for cell, row in zip(part, torch.softmax(logits.double(), -1).numpy(), strict=True):
                joint = cells[cell] * row
                for token in np.flatnonzero(joint * SAMPLES >= LEAST_EXPECTED):
                    grown[(*cell, int(token))] = float(joint[token])
        cells = grown
    return cells


def fit(counts: Counter[Cell], cells: dict[Cell, float]) -> Fit:
    """Tests counts against probabilities; everything else is one more cell."""
    total = counts.total()
    observed = [counts[cell] for cell in cells]
    expected = [total * chance for chance in cells.values()]
    observed.append(total - sum(observed))
    expected.append(total - sum(expected))
    found = stats.chisquare(observed, expected)
    return Fit(float(found.statistic), len(observed) - 1, float(found.pvalue))


def compare(one: Counter[Cell], other: Counter[Cell]) -> Fit:
    """Tests whether two servers draw from the same distribution; cells that are rare in both together are one cell."""
    together = one + other
    share = min(one.total(), other.total()) / together.total()
    common = [cell for cell, count in together.items() if count * share >= LEAST_EXPECTED]
    rows = [
        [*(counts[cell] for cell in common), sum(counts[c] for c in counts.keys() - set(common))]
        for counts in (one, other)
    ]
    table = np.array(rows)[:, np.array(rows).sum(axis=0) > 0]
    found = stats.chi2_contingency(table, correction=False)
    return Fit(float(found.statistic), int(found.dof), float(found.pvalue))
