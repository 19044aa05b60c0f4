"""Charts of single runs: distributions of latencies, and load over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dspark_simulator.scenario import Scenario
from dspark_tuning.reporting.distributions import distributions
from dspark_tuning.reporting.page import Html
from dspark_tuning.reporting.timelines import timelines
from dspark_tuning.search.traced_run import LATENCIES, Floats, TracedCell


def levels_s(scenario: Scenario) -> dict[str, list[float]]:
    """The SLOs of all classes, by kind of latency."""
    slos = [klass.slo for klass in scenario.workload.classes]
    return {"TTFT": [slo.ttft_s for slo in slos], "TPOT": [slo.tpot_s for slo in slos]}


def by_kind(latencies: Mapping[str, Mapping[str, Floats]]) -> dict[str, dict[str, Floats]]:
    """Latencies by kind and name, from latencies by name and kind."""
    return {kind.upper(): {name: run[kind] for name, run in latencies.items()} for kind in LATENCIES}


def charts(key: str, scenario: Scenario, runs: Sequence[TracedCell]) -> list[Html]:
    """Both charts of ``runs``; ``key`` ends their element ids."""
    return [
        distributions(
            f"latencies{key}",
            "Cumulative share of requests (TTFT, TPOT) and tokens (ITL) by latency, all classes together; thin dotted "
            "lines are the SLOs of the classes",
            by_kind({run.arm: run.latencies for run in runs}),
            levels_s(scenario),
        ),
        timelines(f"timeline{key}", [(run.arm, run.timeline) for run in runs]),
    ]
