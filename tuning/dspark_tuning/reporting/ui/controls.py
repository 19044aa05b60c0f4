"""The controls of the page and their effect on a scenario."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from dspark_simulator.scenario import Run, Scenario
from dspark_tuning.planning.what_if import parse
from sglang_dspark.errors import InputError

# More clients or longer outputs would take too long to simulate.
LEAST, MOST = 1 / 8, 8.0
WHOLE_MOST: Final = 512
# Requests that a simulation of the page measures.
MEASURED: Final = 400
MEASURED_MOST: Final = 800


class Control(NamedTuple):
    """A number that the user changes.

    Attributes:
        key: Element id; but for ``load`` and ``running`` the change of :mod:`dspark_tuning.planning.what_if`.
    """

    key: str
    label: str
    help: str


LOAD: Final = Control("load", "Load", "")
RUNNING: Final = Control(
    "running", "Running requests", "at most, and captured in graphs, where the server captures any"
)
FACTORS: Final = (
    Control("prompt", "Prompt length", "times the scenario's"),
    Control("output", "Output length", "times the scenario's"),
    Control("ttft", "TTFT allowed", "times the scenario's service levels"),
    Control("tpot", "TPOT allowed", "times the scenario's service levels"),
    Control("acceptance", "Accepted drafts", "times the drafter's, up to its block"),
)
CONTROLS: Final = (LOAD, RUNNING, *FACTORS)


class RefusedError(Exception):
    """Values that are not valid, with an error line for each control."""

    def __init__(self, lines: Mapping[str, str]) -> None:
        super().__init__("; ".join(lines.values()))
        self.lines = dict(lines)


def start(control: Control, scenario: Scenario) -> float:
    """The scenario's own value."""
    if control is RUNNING:
        return float(scenario.server.max_running_requests)
    if control is not LOAD:
        return 1.0
    clients = scenario.workload.clients
    return float(clients) if clients is not None else float(scenario.workload.arrivals.mean_rate_per_s or 1.0)


def shown(control: Control, scenario: Scenario) -> str:
    """The scenario's own value as text; this text changes nothing."""
    return f"{start(control, scenario):g}"


def help_of(control: Control, scenario: Scenario) -> str:
    if control is not LOAD:
        return control.help
    return "requests/s" if scenario.workload.clients is None else "clients, each with one request at a time"


def moved(scenario: Scenario, values: Mapping[str, str]) -> Scenario:
    """The changed scenario, shortened to what the page can simulate at once.

    Args:
        values: The text of each control, by key.

    Raises:
        RefusedError: Values are no numbers, out of range or invalid for the scenario.
    """
    lines = {}
    for control in CONTROLS:
        try:
            scenario = _applied(scenario, control, values.get(control.key) or "")
        except InputError as error:
            lines[control.key] = str(error)
    if lines:
        raise RefusedError(lines)
    return scenario.model_copy(update={"run": run(scenario, float(values["output"]))})


def run(scenario: Scenario, output: float) -> Run:
    """The length of a simulation of the page: fewer requests where each takes many steps.

    All clients of a closed loop are connected before anything is measured.
    """
    clients = scenario.workload.clients
    if clients is None:
        warmup, measured = 50, float(MEASURED)
    else:
        warmup = max(2, clients + clients // 2)
        measured = min(MEASURED / 4 + 10 * clients, max(MEASURED, clients), MEASURED_MOST)
    requests = warmup + max(MEASURED // 16, int(measured / max(output, 1.0)))
    return Run(requests=requests, warmup_requests=warmup, max_s=scenario.run.max_s)


def _applied(scenario: Scenario, control: Control, text: str) -> Scenario:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value == float(shown(control, scenario)):
        return scenario
    if control is RUNNING:
        return _with_room(scenario, _whole(control, text, value))
    if control is not LOAD:
        _check(control, text, LEAST <= value <= MOST, f"give a factor from {LEAST:g} to {MOST:g}")
        return parse(f"{control.key}={value:f}x").apply(scenario)
    if scenario.workload.clients is not None:
        return scenario.with_workload(scenario.workload.with_clients(_whole(control, text, value)))
    _check(control, text, 0 < value < math.inf, "give requests a second above 0")
    return scenario.with_workload(scenario.workload.with_rate(value))


def _with_room(scenario: Scenario, requests: int) -> Scenario:
    server = scenario.server
    captured = max(server.capture_requests, requests) if server.capture_requests else 0
    update = {"max_running_requests": requests, "capture_requests": captured, "cuda_graph_bs_decode": None}
    return scenario.model_copy(update={"server": server.model_copy(update=update)})


def _whole(control: Control, text: str, value: float) -> int:
    _check(control, text, 1 <= value <= WHOLE_MOST and value == value // 1, f"give a whole number, 1 to {WHOLE_MOST}")
    return int(value)


def _check(control: Control, text: str, fine: bool, remedy: str) -> None:
    if not fine:
        raise InputError(f"{control.label}: {text!r} is not valid; {remedy}")
