"""The Grafana dashboard, and the metrics that its queries use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "dspark.json"


class Selector(NamedTuple):
    """A metric in a query, and the labels that it is filtered by or summed by there."""

    metric: str
    labels: frozenset[str]


def read() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return board


def queries(board: dict[str, Any]) -> list[str]:
    """Of panels, annotations and variables."""
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    annotations = [annotation["expr"] for annotation in board["annotations"]["list"]]
    variables = [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return [*panels, *annotations, *variables]


def selectors(query: str) -> list[Selector]:
    """The metrics of a query; every ``by`` and ``label_values`` is of all of its metrics."""
    grouped = {name.strip() for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(",")} - {"le"}
    grouped |= set(re.findall(r"label_values\(.*, (\w+)\)$", query))
    found = []
    for metric, filters in re.findall(r"(sglang:\w+)(?:\{([^}]*)\})?", query):
        found.append(Selector(metric, frozenset(grouped | set(re.findall(r"(\w+)=", filters)))))
    return found
