"""Statistical tests of a server's first tokens at temperature 1."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from sglang_dspark.local_server import reference
from sglang_dspark.local_server.process import ServerProcess

TOKENS = 3
SAMPLES = 20_480
AT_ONCE = 32
LEAST_EXPECTED = 5.0

Cell = tuple[int, ...]


class Fit(NamedTuple):
    """The result of Pearson's chi-squared test."""

    statistic: float
    degrees: int
    p_value: float

    def power(self, alpha: float) -> float:
        """Estimate a repetition's power at level ``alpha``, with a noncentrality three sigma below its estimate."""
        noncentrality = self.statistic - self.degrees
        low = noncentrality - 3 * np.sqrt(2 * (self.degrees + 2 * max(noncentrality, 0)))
        return float(stats.ncx2.sf(stats.chi2.isf(alpha, self.degrees), self.degrees, max(low, 1e-9)))


def draw(server: ServerProcess, text: str, samples: int = SAMPLES) -> Counter[Cell]:
    """Draw answers to ``text`` and count their first ``TOKENS`` tokens."""
    sampling = {"temperature": 1.0, "max_new_tokens": TOKENS, "n": AT_ONCE, "ignore_eos": True}

    def ask(_: int) -> list[Cell]:
        answers = server.post("/generate", {"text": text, "sampling_params": sampling})
        return [tuple(answer["output_ids"]) for answer in answers]

    with ThreadPoolExecutor(2) as pool:
        return Counter(cell for cells in pool.map(ask, range(samples // AT_ONCE)) for cell in cells)


@torch.no_grad()
def exact(text: str, dtype: torch.dtype = torch.float32) -> dict[Cell, float]:
    """Compute the joint probabilities of first tokens, for cells with an expected count of ``LEAST_EXPECTED`` or more.

    Args:
        text: The prompt.
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
    """Test counts against probabilities; all other tokens form one more cell."""
    total = counts.total()
    observed = [counts[cell] for cell in cells]
    expected = [total * chance for chance in cells.values()]
    observed.append(total - sum(observed))
    expected.append(total - sum(expected))
    test = stats.chisquare(observed, expected)
    return Fit(float(test.statistic), len(observed) - 1, float(test.pvalue))


def compare(one: Counter[Cell], other: Counter[Cell]) -> Fit:
    """Test whether two servers draw from the same distribution; rare cells are merged into one."""
    together = one + other
    share = min(one.total(), other.total()) / together.total()
    common = [cell for cell, count in together.items() if count * share >= LEAST_EXPECTED]
    rows = [
        [*(counts[cell] for cell in common), sum(counts[c] for c in counts.keys() - set(common))]
        for counts in (one, other)
    ]
    table = np.array(rows)[:, np.array(rows).sum(axis=0) > 0]
    test = stats.chi2_contingency(table, correction=False)
    return Fit(float(test.statistic), int(test.dof), float(test.pvalue))
