"""Simulator, seeds and search space of a tuning, and the commands that reproduce it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise

from dspark_simulator.scenario_file import to_yaml
from dspark_tuning.reporting.page import Html, Section, code, details, paragraph, subheading
from dspark_tuning.reporting.provenance import provenance
from dspark_tuning.reporting.table import Table, Words
from dspark_tuning.search.launch_command import SCENARIO
from dspark_tuning.search.search import JOURNAL
from dspark_tuning.search.tune import Options, Outcome


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
    options = outcome.options
    study = without_secrets(options.storage) if options.storage else str(options.folder / JOURNAL)
    return [
        subheading("To reproduce this report"),
        code(command([str(options.folder / SCENARIO)], options)),
        details("The scenario", code(to_yaml(outcome.scenario))),
        paragraph(
            "Any number of workers gives the same results. The study opens in Optuna's dashboard, also while it runs:"
        ),
        code(f"pip install optuna-dashboard\n{shlex.join(['optuna-dashboard', study])}"),
    ]


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
