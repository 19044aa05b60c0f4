"""The report of a tuning run: one HTML file that needs no network, and the same bytes for the same outcome."""

from __future__ import annotations

from dspark_tuning.report import answer, asked, baselines, by_load, frontier, history, policy, provenance, runs
from dspark_tuning.report.page import document
from dspark_tuning.tune import Outcome

__all__ = ["render"]

PARTS = (asked, answer, baselines, by_load, policy, frontier, runs, history, provenance)

SIMULATED = (
    "All figures on this page are simulated. Nothing was measured on a GPU here; "
    "'What was asked' says where the step times come from."
)


def render(outcome: Outcome) -> str:
    """The report of ``outcome`` as one HTML document."""
    return document(
        f"Verification policy for {outcome.scenario.name}", SIMULATED, [part.section(outcome) for part in PARTS]
    )
