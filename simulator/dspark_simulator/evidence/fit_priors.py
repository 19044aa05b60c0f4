"""Quality of other published DSpark drafters relative to the packaged acceptance model, by data set.

``python -m dspark_simulator.evidence.fit_priors DIR``; DIR holds Table 1 of arXiv 2607.05147. For each target and data
set, the logits that the packaged model of the Qwen3-4B drafter needs to reproduce the published accepted length.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from scipy.optimize import brentq

from dspark_simulator.acceptance_model import packaged
from dspark_simulator.acceptance_prior import PRIORS
from dspark_simulator.evidence.fit_acceptance import accepted_length
from sglang_dspark.files import write_atomically

FURTHEST_LOGITS = 3.0


def fitted(folder: Path) -> pd.DataFrame:
    """Rows of target, domain, accepted_length and logits."""
    table = pd.read_csv(folder / "dspark_paper_table1_accepted_length.csv").query("drafter == 'DSpark'")
    table = table.assign(target=table.target.str.replace("Gemma4", "gemma-4"))
    rows = table[["target", "dataset", "accepted_length_incl_bonus"]].itertuples(index=False)
    return pd.DataFrame(
        [(target, dataset.lower(), length, _logits(dataset, length)) for target, dataset, length in rows],
        columns=["target", "domain", "accepted_length", "logits"],
    )


def _logits(dataset: str, length: float) -> float:
    def excess(logits: float) -> float:
        return accepted_length(packaged().shifted(logits), dataset) - length

    return round(float(brentq(excess, -FURTHEST_LOGITS, FURTHEST_LOGITS, xtol=1e-4)), 3)


def main(folder: Path, target: Path) -> None:
    """Write the rows of ``folder`` to ``target``."""
    write_atomically(target, fitted(folder).to_csv(index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[1] / PRIORS)
