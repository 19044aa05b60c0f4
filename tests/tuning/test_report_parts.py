"""Parts of reports: tables, plans, curves, distributions and line styles."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dspark_simulator import scenario as scenarios
from dspark_tuning import planning
from dspark_tuning.planning.attainment import Attained
from dspark_tuning.planning.bound import Bound
from dspark_tuning.planning.capacity import Capacity, Sized
from dspark_tuning.planning.plan import Effect, Plan, Planned
from dspark_tuning.reporting import deployment, page
from dspark_tuning.reporting.curves import Curve, Point, budget, frontier
from dspark_tuning.reporting.distributions import distributions
from dspark_tuning.reporting.numbers import NONE, Estimate, estimate, number
from dspark_tuning.reporting.page import Section, definitions, document, lead
from dspark_tuning.reporting.plan.tables import effects, plans
from dspark_tuning.reporting.plots import STYLES, drawing, panels, styles
from dspark_tuning.reporting.table import Strong, Table, Words
from dspark_tuning.search import baselines
from dspark_tuning.search.traced_run import QUANTILES
from tests.tuning.report_page import Page, check_nothing_is_loaded, check_readable


def attained(share: float, low: float, high: float, ttft_p99_s: float, tpot_p99_s: float, **more: Any) -> Attained:
    figures = {"ttft_p50_s": 0.1, "ttft_p99_s": ttft_p99_s, "tpot_p50_s": 0.01, "tpot_p99_s": tpot_p99_s}
    figures |= {"throughput_tok_s": 1000.0, "backlog_growth": 77.0}
    fields = {"replicas": 3, "worst": "chat", "within": {"chat": share}, "saturated": False, "goodput_per_s": 20.0}
    return Attained(share=share, low=low, high=high, figures=figures, **(fields | more))


def planned() -> Planned:
    question = planning.load("v4flash-chat")
    scenario = scenarios.load("b300-v4flash")
    arm = baselines.default(scenario)
    fewest = attained(0.99, 0.98, 0.995, 0.5, 0.0199)
    smaller = attained(0.81, 0.7, 0.9, 1.5, 0.02, replicas=2)
    sized = Sized(Capacity(8.0, 7.0, 9.0), fewest, smaller)
    chosen = Plan("4xB300", "tuned", scenario, arm, 0.36, sized, Bound("queue-bound", "a queue"))
    unmet = Plan("H200", "no speculation", scenario, arm, 3.0, None, None)
    over = Effect("rate x 2 <b>", 0, 3, attained(0.5, 0.4, 0.6, 3.0, 0.021), sized, 24, 12, Bound("queue-bound", "why"))
    none = Effect("TPOT / 10", 0, 3, attained(0.0, 0.0, 0.0, 0.5, 0.0199, saturated=True), None, None, None, None)
    left = Effect("lost=3", 3, 0, None, sized, 12, 0, None)
    return Planned(question, (chosen, unmet), chosen, (over, none, left), (), None, 1.0)


CURVES = [
    Curve(
        "MTP-1",
        [
            Point("1 client", 90.0, Estimate(100.0, 95.0, 107.0)),
            Point("8 clients", 60.0, Estimate(700.0, 690.0, 710.0)),
        ],
    ),
    Curve("DSpark", [Point("1 client", 200.0, Estimate(210.0)), Point("8 clients", 120.0, Estimate(1300.0))]),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Page]:
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")

    def make() -> Page:
        scenario = scenarios.load("b300-v4flash")
        sections = [
            Section("asked", "What was asked", [definitions(deployment.facts(scenario)), deployment.classes(scenario)]),
            Section("answer", "Answer", [lead("Buy 12."), plans(planned()), effects(planned().effects)]),
            Section("curves", "Curves", [frontier("frontier-all", CURVES), budget("budget", CURVES)]),
        ]
        text = document("A plan", "Simulated.", sections)
        assert text == document("A plan", "Simulated.", sections)
        found = Page(text)
        check_nothing_is_loaded(text, found)
        return found

    return make


def test_a_plans_page_is_whole(made: Callable[..., Page]) -> None:
    found = made()
    check_readable(found)
    gpus = 3 * scenarios.load("b300-v4flash").gpus
    cost = gpus * 0.36 / 3600 / 1000 * 1e6
    assert found.table("The fewest replicas") == {
        "Hardware and serving mode": list(found.table("The fewest replicas")["Hardware and serving mode"]),
        "4xB300, tuned (chosen)": [
            "8.00 [7.00, 9.00]", "3", str(gpus), number(cost), "20.0", "99.0% [98.0%, 99.5%]", "81.0 %, not met",
            "100 / 500", "10.0 / 19.9", "queue-bound",
        ],
        "H200, no speculation": [NONE, "not met", NONE, NONE, NONE, NONE, "", NONE, NONE, ""],
    }  # fmt: skip
    changes = found.table("One change at a time")
    assert changes["rate x 2 <b>"] == [
        "24", "+12", "20.0", "50.0 %", "100 / 3,000", "10.0 / 21.0", "queue-bound: why",
    ]  # fmt: skip
    assert changes["TPOT / 10"][:5] == ["not met", "", "not steady", "0.0 %", "not steady"]
    assert changes["TPOT / 10"][-1].startswith("saturated: the backlog grew by 77 requests")
    assert changes["lost=3"] == ["12", "+0", "0.00", "0.0 %", NONE, NONE, "replicas left: 0, which carry 0.00/s"]


def test_a_table_is_the_same_in_a_terminal_on_a_page_and_in_a_report() -> None:
    table = Table("Two [b] runs", ["Arm", Words("Kind"), "Speed"], [["a<b>", "x", Strong("1 [2]")], ["c", "y", "3"]])
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(table.rich())
    styled = console.export_text(styles=True, clear=False)
    text = console.export_text()
    assert re.search(r"\x1b\[1m *1 \[2\]", styled) and "Two [b] runs" in text
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert rows[-2:] == [["a<b>", "x", "1", "[2]"], ["c", "y", "3"]]
    document_ = document("t", "n", [Section("s", "s", [table])])
    assert Page(document_).table("Two [b] runs")["a<b>"] == ["x", "1 [2]"] and Page(document_).strong == ["1 [2]"]
    assert document_.count("<td class=words>") == 2
    pytest.importorskip("dash")
    from dspark_tuning.reporting.ui.charts import dash_table

    shown = dash_table(table).to_plotly_json()["props"]["children"]
    assert [cell.children for cell in shown[1].children[0].children] == ["a<b>", "x", "1 [2]"]
    assert [cell.children for cell in shown[0].children.children] == ["Arm", "Kind", "Speed"]


def test_a_wide_table_has_intervals_under_their_values() -> None:
    table = Table("Wide", ["Arm", *["A long header"] * 8], [["a", *["1.5 [1.2, 1.8]"] * 8]])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table.rich())
    lines = [line.split() for line in console.export_text().splitlines() if "1." in line]
    assert lines == [["a", *["1.5"] * 8], ["[1.2,", "1.8]"] * 8]


def test_curves_are_drawn_and_told_alike(made: Callable[..., Page]) -> None:
    found = made()
    first, second = found.drawing("frontier-all")
    assert (first["name"], first["x"], first["y"]) == ("MTP-1", [90.0, 60.0], [100.0, 700.0])
    assert first["error_y"]["array"] == [7.0, 10.0] and first["error_y"]["arrayminus"] == [5.0, 10.0]
    assert "error_y" not in second and second["customdata"] == ["1 client", "8 clients"]
    for name in ("Output tokens/s a GPU", "Verify tokens a request"):
        table = found.table(name)
        assert table["MTP-1, 1 client"] == ["90.0", "100 [95.0, 107]"] and table["DSpark, 8 clients"] == [
            "120",
            "1,300",
        ]


def test_lines_of_any_names_differ_without_colour() -> None:
    looks = [(style.dash, style.symbol) for style in styles([f"H{number}" for number in range(24)])]
    assert len(set(looks)) == 24
    # If one name is no arm, no arm keeps its own style.
    assert styles([baselines.TUNED, baselines.PLAIN]) == [STYLES[baselines.TUNED], STYLES[baselines.PLAIN]]
    mixed = styles(["MTP-1", baselines.TUNED])
    assert mixed[0] != mixed[1]


@pytest.mark.parametrize("titles", [("a",), ("a", "b"), ("a", "b", "c", "d")])
def test_panels_do_not_touch(titles: tuple[str, ...]) -> None:
    drawn = drawing("x", "y", height=700)
    names = panels(drawn, *titles)
    layout = drawn.to_plotly_json()["layout"]
    domains = [layout["yaxis" + name[1:]]["domain"] for name in names]
    edges = np.array(domains[::-1]).ravel()
    assert edges[0] == 0 and edges[-1] < 1 and np.all(np.diff(edges) > 0)
    assert [note["y"] for note in layout["annotations"]] == [top for _, top in domains]
    assert layout["xaxis"]["anchor"] == names[-1]


@pytest.mark.filterwarnings("error")
def test_times_that_nobody_observed_are_dashes() -> None:
    nothing, something = np.full(len(QUANTILES), math.nan), np.array(QUANTILES)
    told = Page(distributions("times", "Share", {"TTFT": {"a": nothing}, "TPOT": {"a": nothing, "b": something}}))
    table = told.table("Percentiles in ms")
    assert table["TTFT, a"] == table["TPOT, a"] == [NONE] * 5
    assert table["TPOT, b"] == ["100", "500", "900", "950", "990"]
    distributions("times", "Share", {"TTFT": {"a": nothing}})


def test_an_estimate_without_an_interval_stands_alone() -> None:
    assert estimate(Estimate(2.0)) == "2.00" and estimate(Estimate(2.0, 1.0, 3.0)) == "2.00 [1.00, 3.00]"
    assert not Estimate(2.0, 1.0).known
