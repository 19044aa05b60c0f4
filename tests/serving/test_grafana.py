"""The dashboard queries metrics that the plugin exports; tests/live queries a server for all of them."""

from __future__ import annotations

import itertools
import re
from typing import Any

from tests.serving import dashboard
from tests.serving.test_telemetry import LABELS, make, registry

__all__ = ["registry"]

# Added by Prometheus to what it scrapes.
SCRAPED = {"instance", "job"}


def test_every_metric_of_ours_is_exported_with_its_labels(registry: Any) -> None:
    make()
    exported = {}
    for collector in set(registry._collector_to_names):
        names = registry._collector_to_names[collector]
        for name in names:
            exported[name] = set(collector._labelnames)
    found = [s for query in dashboard.queries(dashboard.read()) for s in dashboard.selectors(query)]
    ours = [selector for selector in found if selector.metric.startswith("sglang:dspark_")]
    assert len(ours) > 20
    for selector in ours:
        assert selector.metric in exported, selector
        assert selector.labels - SCRAPED <= exported[selector.metric] | set(LABELS), selector
    # Nothing that an operator should see is left out but the count of what is recorded.
    shown = {selector.metric for selector in ours}
    left = {name for name in exported if not name.endswith("_created")} - shown
    assert {name for name in left if f"{name}_total" not in exported} == {
        "sglang:dspark_accepted_length_total",
        "sglang:dspark_position_confidence_total",
        "sglang:dspark_recorded_steps_total",
    }


def test_it_can_be_imported_and_read() -> None:
    board = dashboard.read()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"]
        places = panel["gridPos"]
        assert places["x"] + places["w"] <= 24
        for target in panel["targets"]:
            # Every name in braces of a legend is a label that the query keeps.
            kept = {label for selector in dashboard.selectors(target["expr"]) for label in selector.labels}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept
            assert target["expr"].count("(") == target["expr"].count(")")
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
    variables = {f"${variable['name']}" for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\w+", " ".join(dashboard.queries(board))))
    assert used <= variables
