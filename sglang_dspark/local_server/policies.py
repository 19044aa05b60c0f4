"""One policy of every family, chosen so that at the demo's loads each verifies some drafts and not all."""

from __future__ import annotations

from typing import Any

from sglang_dspark.demo.text import CLASSES
from sglang_dspark.local_server.steering import sts_temperatures
from sglang_dspark.policy import Argmax, Fixed, Greedy, NoDraft, SpsAdditiveTable, Static, Threshold
from sglang_dspark.policy.artifact import Artifact
from sglang_dspark.serving.evidence import offline

# Approximate step times of the demo pair on a CPU.
BELIEF = SpsAdditiveTable(
    bias_seconds=0.04,
    bs_probes=(1, 16),
    alpha_seconds=(0.015, 0.02),
    m_probes=(1, 128),
    theta_seconds=(0.0005, 0.06),
)

FAMILIES: dict[str, Any] = {
    "none": NoDraft(),
    "fixed": Fixed(length=3),
    "static": Static(theta=0.3),
    "greedy": Greedy(),
    "argmax": Argmax(fill=True),
    "threshold": Threshold(
        running=(1, 8, 16),
        theta=(0.05, 0.3, 0.5),
        weight=(1.0, 2.0, 0.5),
        price_per_token=0.001,
        min_length=1,
        off_above=14,
    ),
}


def artifact(family: str, **fields: Any) -> Artifact:
    """Make an artifact of the demo pair around a family's policy."""
    return offline.artifact(
        FAMILIES[family],
        **{"classes": CLASSES, "sts_temperatures": sts_temperatures(), "cost_belief": BELIEF, **fields},
    )
