"""Parts of a report by themselves, put together as the page of a capacity plan."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from dspark_simulator import scenario as scenarios
from dspark_tuning.reporting import asked, page
from dspark_tuning.reporting.curves import Curve, Point, budget, frontier
from dspark_tuning.reporting.distributions import distributions
from dspark_tuning.reporting.numbers import NONE, Estimate, estimate
from dspark_tuning.reporting.page import Section, definitions, document, lead
from dspark_tuning.reporting.plan.purchases import Plan, plans
from dspark_tuning.reporting.plan.what_if import WhatIf, what_if
from dspark_tuning.reporting.plots import STYLES, drawing, panels, styles
from dspark_tuning.search import baselines
from dspark_tuning.search.traced_run import QUANTILES
from tests.tuning.report_page import Page, check_nothing_is_loaded, check_readable

PLANS = [
    Plan("4xB300", "tuned", Estimate(8.0, 7.0, 9.0), "3", 12, 0.4321, Estimate(20.0, 19.0, 21.0),
         Estimate(0.99, 0.98, 0.995), "81.0 %, not met", 0.5, 0.0199, "queue-bound", chosen=True),
    Plan("H200", "no speculation", Estimate(math.nan), "not met", None, None, Estimate(math.nan), Estimate(0.12), "",
         12.5, 0.04, "bandwidth-bound"),
]  # fmt: skip
CHANGES = [
    WhatIf("as planned", 12, 0, Estimate(20.0, 19.0, 21.0), 0.99, 0.5, 0.0199, ""),
    WhatIf("rate x 2 <b>", 24, 12, Estimate(15.0), 0.5, 3.0, 0.021, "queue-bound"),
    WhatIf("TPOT / 10", None, None, Estimate(0.0), 0.0, 0.5, 0.0199, "compute-bound"),
]
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
            Section("asked", "What was asked", [definitions(asked.facts(scenario)), asked.classes(scenario)]),
            Section("answer", "Answer", [lead("Buy 12."), plans("Plans", PLANS), what_if("What if", CHANGES)]),
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
    assert found.table("Plans") == {
        "Hardware and serving": list(found.table("Plans")["Hardware and serving"]),
        "4xB300, tuned (chosen)": [
            "8.00 [7.00, 9.00]", "3", "12", "0.432", "20.0 [19.0, 21.0]", "99.0% [98.0%, 99.5%]", "81.0 %, not met",
            "500", "19.9", "queue-bound",
        ],
        "H200, no speculation": [NONE, "not met", NONE, NONE, NONE, "12.0%", "", "12,500", "40.0", "bandwidth-bound"],
    }  # fmt: skip
    changes = found.table("What if")
    assert changes["as planned"][:2] == ["12", "+0"]
    assert changes["rate x 2 <b>"] == ["24", "+12", "15.0", "50.0%", "3,000", "21.0", "queue-bound"]
    assert changes["TPOT / 10"][:2] == ["not met", ""]


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
    # Where one name is not an arm, an arm's look could be another's.
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
