"""Simulator, seeds and search space of a tuning, and the commands that reproduce it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise

import yaml

from dspark_simulator import scenario as scenarios
from dspark_simulator.scenario import Scenario
from dspark_simulator.workloads import Trace
from dspark_tuning.reporting.page import Html, Section, code, details, paragraph, subheading
from dspark_tuning.reporting.provenance import provenance
from dspark_tuning.reporting.table import Table, Words
from dspark_tuning.search.search import JOURNAL
from dspark_tuning.search.tune import Options, Outcome

OWN_FILE = "scenario.yaml"


def section(outcome: Outcome) -> Section:
    origin = outcome.artifact.provenance
    facts = [
        ("Simulator", f"dspark {origin.simulator_version}"),
        ("Trials", f"{origin.trials}, in batches of {outcome.options.batch}"),
        ("Search seed", str(outcome.options.seed)),
    ]
    seeds = Table(
        "Seeds; each seed determines the requests, the acceptances and a truth, and the three sets are disjoint",
        ["Set", Words("Count"), Words("Seeds")],
        [[name, str(len(values)), _progression(values)] for name, values in sorted(origin.seeds.items())],
    )
    space = Table(
        "Search space",
        ["Parameter", Words("Choices")],
        [[name, _choices(choices)] for name, choices in sorted(origin.search_space.items())],
    )
    return provenance(facts, seeds, details("Search space", space), *_again(outcome))


def command(source: Sequence[str], options: Options) -> str:
    """The command that reproduces a tuning; ``source`` are its words that name the scenario."""
    words = ["dspark", "tune", *source, "--objective", options.objective, "--trials", str(options.trials)]
    words += ["--replications", str(options.replications), "--seed", str(options.seed)]
    for name, value in sorted(options.pins.items()):
        words += ["--pin", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    if options.storage is not None:
        words += ["--storage", without_secrets(options.storage)]
    return shlex.join([*words, "--out", str(options.folder)])


def without_secrets(storage: str) -> str:
    """A storage URL without its password and its query, which may hold one."""
    return re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", storage.split("?")[0])


def _again(outcome: Outcome) -> list[Html]:
    scenario, options = outcome.scenario, outcome.options
    parts = [subheading("To reproduce this report")]
    source = _packaged(scenario)
    if source is None:
        source = [OWN_FILE]
        text = yaml.safe_dump(scenario.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        parts += [paragraph(f"Save the scenario as {OWN_FILE}:"), details("The scenario", code(text))]
    study = without_secrets(options.storage) if options.storage else str(options.folder / JOURNAL)
    return [
        *parts,
        code(command(source, options)),
        paragraph(
            "Any number of workers gives the same results. The study opens in Optuna's dashboard, also while it runs:"
        ),
        code(f"pip install optuna-dashboard\n{shlex.join(['optuna-dashboard', study])}"),
    ]


def _packaged(scenario: Scenario) -> list[str] | None:
    """Arguments that make ``scenario`` from a packaged one: name, trace, loads; None if it is no packaged one."""
    if scenario.name not in scenarios.names():
        return None
    packaged = scenarios.load(scenario.name)
    words = [scenario.name]
    arrivals = scenario.workload.arrivals
    if isinstance(arrivals, Trace):
        packaged = packaged.with_trace(arrivals.path)
        words += ["--trace", str(arrivals.path)]
    if scenario.loads != packaged.loads:
        packaged = packaged.model_copy(update={"loads": scenario.loads})
        words += [word for load in scenario.loads for word in ("--load", f"{load:g}")]
    return words if packaged.model_dump() == scenario.model_dump() else None


def _progression(values: Sequence[int]) -> str:
    """``2, 5, .. 59`` where steps are equal, as :func:`dspark_simulator.scenario.seeds` makes them."""
    if len(values) > 3 and len({after - before for before, after in pairwise(values)}) == 1:
        return f"{values[0]}, {values[1]}, .. {values[-1]}"
    return ", ".join(map(str, values))


def _choices(choices: object) -> str:
    if isinstance(choices, dict):
        return f"{choices['low']:g} to {choices['high']:g}"
    if isinstance(choices, list):
        return ", ".join(map(str, choices))
    return f"{choices} (pinned)"
