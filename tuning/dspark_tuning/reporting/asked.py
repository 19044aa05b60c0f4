"""What was asked: the deployment, its traffic, the objective, and where step times come from."""

from __future__ import annotations

from dspark_simulator.costs import CurveCost, RooflineCost
from dspark_simulator.deployment import Live
from dspark_simulator.scenario import Scenario
from dspark_simulator.workloads import RequestClass
from dspark_simulator.workloads.lengths import LengthDistribution
from dspark_tuning.reporting.numbers import NONE, load_label, milliseconds
from dspark_tuning.reporting.page import Html, Row, Section, definitions, paragraph, table
from dspark_tuning.search.objectives import METRICS
from dspark_tuning.search.tune import Outcome


def section(outcome: Outcome) -> Section:
    scenario = outcome.scenario
    objective = METRICS[outcome.options.objective]
    asked = ("Objective", f"{objective.title}, {objective.unit}; geometric mean over the loads")
    described = [paragraph(scenario.description)] if scenario.description else []
    return Section("asked", "What was asked", [*described, definitions([*facts(scenario), asked]), classes(scenario)])


def facts(scenario: Scenario) -> list[tuple[str, str]]:
    """A deployment and its traffic, as pairs of a word and what it is here."""
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
        ("Acceptance", _acceptance(scenario)),
    ]


def size(scenario: Scenario) -> str:
    """What the model stores, by which a wrong reading of its config shows."""
    shape = scenario.shape()
    return "not known, neither by its name nor by a shape" if shape is None else shape.describe()


def _acceptance(scenario: Scenario) -> str:
    text = "given by the scenario" if scenario.acceptance else "the DSpark paper's Qwen3-4B drafter"
    quality = scenario.drafter_quality
    return text if quality == 0 else f"{text}, {abs(quality):g} logits {'better' if quality > 0 else 'worse'}"


def classes(scenario: Scenario) -> Html:
    """The request classes with their lengths and service levels."""
    return table(
        "Request classes; lengths in tokens, service levels in milliseconds",
        ["Class", "Share", "Acceptance domain", "Prompt", "Output", "Cached prefix", "TTFT", "TPOT"],
        [_class_row(klass) for klass in scenario.workload.classes],
        words=True,
    )


def step_times(scenario: Scenario) -> str:
    """How long a simulated step takes, and where that is from."""
    cost = scenario.cost
    if isinstance(cost, RooflineCost):
        reached = cost.reached
        return (
            f"Computed, not measured: a roofline of the model's shape and the published peaks of {cost.tp} "
            f"{cost.gpu}, of which {reached.bandwidth_efficiency:.0%} of the bandwidth and "
            f"{reached.flops_efficiency:.0%} of the FLOP rate are reached."
        )
    text = "Looked up in the SGLang cost table that the scenario gives."
    if isinstance(cost, CurveCost):
        captured, draft = cost.curve.captured, cost.curve.draft
        text = (
            "Interpolated between measurements that others published or the scenario gives: verify at "
            f"{len(captured.tokens)} step sizes up to {captured.tokens[-1]:,} tokens, draft at "
            f"{len(draft.requests)} batch sizes up to {draft.requests[-1]:,} requests."
        )
    if any((cost.overhead_s, cost.inject_s_per_token, cost.context_s_per_token, cost.prefill_context_s)):
        text += (
            " What such measurements leave out (overhead, attention over the context, injection into the drafter) is "
            "added at rates that the scenario gives."
        )
    if extrapolated := scenario.at_load(max(scenario.loads)).extrapolated(scenario.server):
        text += f" At the highest load they are {extrapolated}."
    return text


def truths(live: Live) -> str:
    """How live steps are assumed to differ from the profile."""
    (low_s, high_s), (low, high), (least, most) = live.overhead_s, live.slope, live.draft_fixed
    return (
        f"{milliseconds(low_s)} to {milliseconds(high_s)} ms more a step than profiled, verify time times {low:g} to "
        f"{high:g}, {least:.0%} to {most:.0%} of one request's measured draft time the same at every gamma; uniform, "
        "one draw a seed, unknown to every policy."
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


def _class_row(klass: RequestClass) -> Row:
    return Row(
        klass.name,
        [
            f"{klass.share:g}",
            klass.domain,
            _lengths(klass.prompt),
            _lengths(klass.output),
            f"{klass.cached_prefix:.0%}",
            milliseconds(klass.slo.ttft_s),
            milliseconds(klass.slo.tpot_s),
        ],
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
