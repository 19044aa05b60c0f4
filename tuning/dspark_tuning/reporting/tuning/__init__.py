"""Reports: one HTML file that needs no network, and the same bytes for the same figures.

A report is ``page.document(title, note, sections)``; a section is a heading over parts; a part is made by a function
that takes plain results. :func:`render` is the page of a tuning, ``dspark_tuning.reporting.calibration`` that of a
calibration. The page of another command puts together what it needs:

- ``page``: text, definitions, tables, folded parts, code, and ``figure``, a drawing with its caption and its tables.
- ``asked.facts(scenario)`` (for ``page.definitions``) and ``asked.classes(scenario)``: what was asked.
- ``page.lead(sentence)``: the answer.
- ``plans.plans(caption, [Plan])`` and ``what_if.what_if(caption, [WhatIf])``: the tables of a capacity plan.
- ``curves.frontier(key, [Curve])`` and ``curves.budget(key, [Curve])``: throughput against the speed of a user, and
  verify tokens against concurrency, with intervals where the points have them.
- ``distributions.distributions(key, caption, {kind: {name: quantiles}}, {kind: levels})``: latencies, at
  ``watch.QUANTILES``.
- ``timelines.timelines(key, [(name, Timeline)])``: load, queue, verify length and KV of a run, from
  ``watch.watch(scenario, cell)`` or, of any steps, ``timeline.timeline``.
- ``versions.versions()`` and ``page.code``: where the figures come from and how to get them again.
- ``plots``: drawings that can be told apart without colour, on white and on black.

A key names a section or a drawing, once in a page; ``content`` is taken.
"""

from __future__ import annotations

from dspark_tuning.reporting import asked, policy
from dspark_tuning.reporting.page import document
from dspark_tuning.reporting.tuning import answer, baselines, by_load, frontier, history, provenance, runs
from dspark_tuning.search.tune import Outcome

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
