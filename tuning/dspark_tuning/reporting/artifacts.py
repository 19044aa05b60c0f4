"""Tables of ``dspark policy``: policy files, their evidence and their differences."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dspark_tuning.reporting.numbers import gain_text, number
from dspark_tuning.reporting.table import Table, Words

if TYPE_CHECKING:
    from sglang_dspark.policy.artifact import Artifact


def policy(artifact: Artifact) -> Table:
    """The policy and settings of an artifact, and its provenance."""
    origin = artifact.provenance
    fields = {
        **{
            "policy" if name == "family" else f"  {name}": value for name, value in artifact.policy.model_dump().items()
        },
        "serve": artifact.serve,
        "gamma": artifact.gamma,
        "classes": artifact.classes,
        "scenario": f"{origin.scenario}: {origin.model} on {origin.hardware}, {origin.engine}",
        "objective": f"{origin.objective}, {origin.trials} trials",
        **artifact.environment,
        **artifact.server_flags,
        **{f"searched: {name}": value for name, value in origin.search_space.items()},
        "advice": artifact.advice,
    }
    return Table("Policy", ["Field", Words("Value")], [[name, _text(value)] for name, value in fields.items()])


def evidence(artifact: Artifact) -> Table:
    """The tuned policy against every arm, over all loads."""
    rows = [
        [row.arm, row.metric, number(row.mean), gain_text(row.model_dump()), str(row.replications)]
        for row in artifact.evidence
        if row.load is None
    ]
    columns = ["Arm", Words("Metric"), "Mean", "Policy over arm", "Replications"]
    return Table("Evidence, over all loads: an arm is a policy with its server flags", columns, rows)


def changes(rows: Iterable[tuple[str, str, str]]) -> Table:
    """Fields in which two artifacts differ."""
    return Table("Differences", ["Field", Words("Old"), Words("New")], [list(row) for row in rows])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
