"""The policy's parameters, its survival threshold or its belief, and the verify lengths that follow."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.reporting.numbers import load_label, number
from dspark_tuning.reporting.page import Html, Section, definitions, figure, paragraph, subheading
from dspark_tuning.reporting.plots import SERIES, arm_lines, doubling, drawing, line, styles
from dspark_tuning.reporting.table import Table
from dspark_tuning.reporting.tuning.by_load import mean_table
from dspark_tuning.search.baselines import profiled_belief
from dspark_tuning.search.tune import Outcome
from sglang_dspark.policy import CostBelief, Threshold

# A policy that prices context has its threshold chart for a short and a long context.
LONG_CONTEXT = 8192
# Ticks of logarithmic axes; one per doubling would be too many for a narrow screen.
FOURFOLD = [4**power for power in range(8)]


def section(outcome: Outcome) -> Section:
    parts = choice(outcome.scenario, outcome.winner)
    return Section("policy", "The policy", [*parts, subheading("Verify length"), _verify_length(outcome)])


def choice(scenario: Scenario, arm: Arm) -> list[Html]:
    """The parameters of an arm's policy, and its threshold or its belief as a chart."""
    chosen = arm.policy
    if chosen is None:
        return [paragraph(f"'{arm.name}' schedules nothing: every block is verified whole, or nothing is drafted.")]
    pairs = [(name.replace("_", " "), _value(value)) for name, value in chosen.model_dump(mode="json").items()]
    parts = [definitions(pairs)]
    classes = [klass.name for klass in scenario.workload.classes]
    if (threshold := chosen.survival_threshold()) is not None:
        parts.append(_threshold(arm.server, classes, threshold))
    elif chosen.needs_belief and arm.belief is not None:
        parts.append(_belief(scenario, arm.server, arm.belief))
    return parts


def survival_needed(chosen: Threshold, running: NDArray[np.int64], weight: float, context: int) -> NDArray[np.float64]:
    """float64 [n]: the survival from which a draft counts, at ``running`` [n] requests, ``context`` tokens each."""
    theta: NDArray[np.float64] = np.interp(np.log2(running), np.log2(chosen.running), chosen.theta)
    return theta * (1 + chosen.price_per_token * context) / weight


def _threshold(server: Server, names: list[str], chosen: Threshold) -> Html:
    most = server.max_running_requests
    if chosen.off_above is not None:
        most = min(most, chosen.off_above)
    running = np.array(
        sorted({*(2**power for power in range(most.bit_length())), *(k for k in chosen.running if k < most), most})
    )
    chart = drawing("Running requests", "Survival that a draft needs", height=420)
    doubling(chart, FOURFOLD)
    chart.update_yaxes(range=[0, 1.02])
    # Classes of equal weight share a line.
    classes: dict[float, list[str]] = {}
    for place, name in enumerate(names):
        classes.setdefault(chosen.weight[place] if place < len(chosen.weight) else 1.0, []).append(name)
    contexts = (0, LONG_CONTEXT) if chosen.price_per_token else (0,)
    needed = {}
    for weight, alike in classes.items():
        for context in contexts:
            name = ", ".join(alike) + (f": {context:,} tokens of context" if chosen.price_per_token else "")
            needed[name] = survival_needed(chosen, running, weight, context)
    for (name, values), style in zip(needed.items(), styles(list(needed)), strict=True):
        line(chart, name, style, running, values, showlegend=True, hovertemplate="%{y:.3f}", cliponaxis=False)
    rows = [[name, *map(number, values)] for name, values in needed.items()]
    return figure(
        "threshold",
        chart,
        _threshold_caption(server, chosen),
        Table("Survival that a draft needs, by running requests", ["Requests", *(str(r) for r in running)], rows),
    )


def _threshold_caption(server: Server, chosen: Threshold) -> str:
    longest = min(chosen.max_length, server.gamma)
    text = (
        "The survival from which the step's budget counts a draft, by running requests; above 1 no draft counts. "
        f"A request verifies {chosen.min_length} to {longest} drafts."
    )
    if not chosen.price_per_token:
        text += " Its context does not matter."
    if chosen.fill:
        text += " The budget is then raised to the captured size that the step is padded to."
    if chosen.off_above is not None:
        text += f" Above {chosen.off_above} running requests nothing is drafted."
    return text


def _belief(scenario: Scenario, server: Server, belief: CostBelief) -> Html:
    profile = profiled_belief(scenario, server.gamma)
    (low_s, high_s), (low, high) = scenario.live.overhead_s, scenario.live.slope
    least, most = profile.corrected(low_s, low), profile.corrected(high_s, high)
    chart = drawing("Verify tokens of the step", "Step time, ms", height=460)
    gamma = server.gamma
    rows = []
    for i, requests in enumerate(_batches(scenario, server.max_running_requests)):
        tokens = requests * np.arange(1, gamma + 2)
        times = [1e3 * step_time_s(table, requests, tokens) for table in (belief, profile, least, most)]
        _band(chart, tokens, times[2], times[3], showlegend=i == 0)
        label = f"{requests} request{'s' if requests > 1 else ''}"
        line(chart, f"belief, {label}", SERIES[0]._replace(symbol=SERIES[i].symbol), tokens, times[0])
        line(chart, f"profile, {label}", SERIES[1]._replace(symbol=f"{SERIES[i].symbol}-open"), tokens, times[1])
        rows += [
            [f"{requests:,} requests, {count // requests} each", str(count), *(number(time[j]) for time in times)]
            for j, count in enumerate(tokens)
        ]
    doubling(chart, FOURFOLD)
    return figure(
        "belief",
        chart,
        "Step time by verify tokens, anchors included: the policy's belief, the profile, and, shaded, the "
        "range of true step times that the policies were scored on.",
        Table(
            "Step time in ms",
            ["Requests, tokens of each", "Verify tokens", "Belief", "Profile", "Least truth", "Most truth"],
            rows,
        ),
    )


def step_time_s(table: CostBelief, requests: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [n]: seconds of a step that verifies ``tokens`` [n] of ``requests`` requests, by ``table``."""
    times = table.step_times()
    by_tokens = times.tokens_s[tokens]
    seconds: NDArray[np.float64] = times.requests_s[requests] + (1 / by_tokens if times.is_rate else by_tokens)
    return seconds


def _batches(scenario: Scenario, most: int) -> list[int]:
    """A small, a middle and a large batch among the loads of a closed loop, or of round sizes."""
    closed = scenario.workload.clients is not None
    sizes = sorted({min(int(load), most) for load in (scenario.loads if closed else (1, 16, 128))})
    return sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})


def _band(
    chart: go.Figure, tokens: NDArray[np.int64], low: NDArray[np.float64], high: NDArray[np.float64], showlegend: bool
) -> None:
    chart.add_scatter(
        x=[*tokens.tolist(), *tokens[::-1].tolist()],
        y=[*low.tolist(), *high[::-1].tolist()],
        fill="toself",
        fillcolor="rgba(125,130,136,0.3)",
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name="range of truths",
        legendgroup="truths",
        showlegend=showlegend,
    )


def _verify_length(outcome: Outcome) -> Html:
    means = outcome.rows.groupby(["arm", "load"], sort=False)["verify_length"].mean().reset_index()
    chart = drawing(load_label(outcome.scenario), "Drafts verified a round and request")
    doubling(chart, outcome.scenario.loads)
    arm_lines(chart, means, "load", "verify_length", side_by_side=True)
    return figure(
        "verify-length",
        chart,
        "Mean verify length by load; arms are set side by side around their load, thin dotted lines are fixed lengths.",
        mean_table(outcome, "Drafts verified a round and request", outcome.rows["verify_length"]),
        mean_table(
            outcome, "Accepted length: tokens a round, the target's own included", outcome.rows["accepted_length"]
        ),
    )


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "never"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
