"""A scenario in words: deployment, traffic, and where step times come from."""

from __future__ import annotations

from dspark_simulator.deployment import Live
from dspark_simulator.scenario import Scenario
from dspark_simulator.workloads.lengths import LengthDistribution
from dspark_tuning.reporting.numbers import NONE, load_label, milliseconds
from dspark_tuning.reporting.table import Table, Words


def facts(scenario: Scenario) -> list[tuple[str, str]]:
    """A deployment and its traffic as pairs of a term and its value."""
    server = scenario.server
    loads = ", ".join(f"{load:g}" for load in scenario.loads)
    return [
        ("Scenario", scenario.name),
        ("Model", scenario.model),
        ("Model's size", size(scenario)),
        ("Hardware", _hardware(scenario)),
        ("Engine", f"{server.engine}, block of {scenario.drafter_gamma} drafts"),
        ("Flags by default", _flags(scenario)),
        ("KV pool", pool(scenario)),
        ("Arrivals", _fields(scenario.workload.arrivals.model_dump(mode="json"))),
        ("Loads", f"{loads} {load_label(scenario)}"),
        ("Step times", step_times(scenario)),
        ("Live steps", truths(scenario.live)),
        ("Acceptance", acceptance(scenario)),
    ]


def size(scenario: Scenario) -> str:
    """The model's parameters, weights and KV bytes: a misread config shows here."""
    shape = scenario.shape()
    return "unknown: neither its name nor a shape gives it" if shape is None else shape.describe()


def acceptance(scenario: Scenario) -> str:
    """Whose acceptance a scenario has, and on which domains."""
    drafter, quality = scenario.drafter(), scenario.drafter_quality
    text = f"{drafter.drafter} of {drafter.target} ({drafter.source})"
    if quality:
        text += f", {abs(quality):g} logits {'better' if quality > 0 else 'worse'}"
    if drafter.target != scenario.model:
        text += f", assumed for {scenario.model}"
    return f"{text}, on {', '.join(dict.fromkeys(klass.domain for klass in scenario.workload.classes))}"


def rests_on(scenario: Scenario) -> str:
    """Whose step times and whose acceptance the figures of a scenario rest on, in one line."""
    return f"Rests on step times {scenario.cost.source()}; acceptance of {acceptance(scenario)}."


def classes(scenario: Scenario) -> Table:
    """The request classes with their lengths and SLOs."""
    rows = [
        [
            klass.name,
            f"{klass.share:g}",
            klass.domain,
            _lengths(klass.prompt),
            _lengths(klass.output),
            f"{klass.cached_prefix:.0%}",
            milliseconds(klass.slo.ttft_s),
            milliseconds(klass.slo.tpot_s),
        ]
        for klass in scenario.workload.classes
    ]
    columns = [
        "Class",
        *map(Words, ("Share", "Acceptance domain", "Prompt", "Output", "Cached prefix", "TTFT", "TPOT")),
    ]
    return Table("Request classes; lengths in tokens, SLOs in milliseconds", columns, rows)


def step_times(scenario: Scenario) -> str:
    """Where the step times of a scenario come from, and up to which size of step they were measured."""
    text = scenario.cost.describe()
    if extrapolated := scenario.at_load(max(scenario.loads)).extrapolated(scenario.server):
        text += f" At the highest load they are {extrapolated}."
    return text


def truths(live: Live) -> str:
    """The assumed range of differences between live steps and the profile."""
    (low_s, high_s), (low, high), (least, most) = live.overhead_s, live.slope, live.draft_fixed
    return (
        f"{milliseconds(low_s)} to {milliseconds(high_s)} ms more a step than profiled, verify time times {low:g} to "
        f"{high:g}, {least:.0%} to {most:.0%} of one request's measured draft time the same at every gamma; uniform, "
        "one draw a seed, hidden from every policy."
    )


def _hardware(scenario: Scenario) -> str:
    replicas = f"; {scenario.replicas} replicas, routed {scenario.router}" if scenario.replicas > 1 else ""
    return f"{scenario.hardware} (GPUs a replica: {scenario.gpus}{replicas})"


def _flags(scenario: Scenario) -> str:
    server = scenario.server
    return (
        f"gamma {server.gamma}, at most {server.max_running_requests} running requests, graphs to "
        f"{server.captured_requests()} requests, prefill chunks of {server.chunked_prefill_size:,} tokens"
    )


def pool(scenario: Scenario) -> str:
    """The KV pool of a replica in tokens."""
    memory = scenario.memory
    return (
        f"{memory.kv_tokens:,} tokens a replica, {memory.kv_tokens_without_draft:,} without the drafter, at these flags"
    )


def _lengths(lengths: LengthDistribution | None) -> str:
    if lengths is None:
        return NONE
    fields = lengths.model_dump(mode="json")
    bounds = f", {fields.pop('min')} to {fields.pop('max')}" if "min" in fields else ""
    return _fields(fields) + bounds


def _fields(fields: dict[str, object]) -> str:
    """``lognormal, mean 400, sigma 0.8``: the kind first, then its parameters."""
    rest = [f"{name.replace('_', ' ')} {_short(value)}" for name, value in fields.items() if name != "kind"]
    return ", ".join([str(fields["kind"]), *rest])


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} values"
    return f"{value:g}" if isinstance(value, float) else str(value)
