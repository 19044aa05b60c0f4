"""The artifact of a tuned arm: its policy with server flags, provenance, evidence and advice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

import dspark_tuning
from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_tuning.search import baselines
from dspark_tuning.search.objectives import METRICS, REQUIRED_ATTAINMENT, Objective
from dspark_tuning.search.server_flags import environment, flags
from dspark_tuning.search.space import Space
from sglang_dspark.policy import Fixed, NoDraft
from sglang_dspark.policy.artifact import Artifact, EvidenceRow, Provenance


class Searched(NamedTuple):
    """Provenance of a search: objective, number of trials, and the seeds of the search, select and report sets."""

    objective: Objective
    trials: int
    seeds: dict[str, list[int]]


def artifact_of(
    scenario: Scenario, space: Space, winner: Arm, searched: Searched, versus: pd.DataFrame, advice: str
) -> Artifact:
    """Artifact of ``winner`` with everything that an engine needs to serve it, its provenance and its evidence."""
    plain = not winner.server.speculative
    gamma = winner.server.gamma
    return Artifact(
        policy=winner.policy or (NoDraft() if plain else Fixed(length=gamma)),
        serve="plain" if plain else "speculative",
        gamma=gamma,
        classes=tuple(space.classes),
        sts_temperatures=scenario.drafter().sts[:gamma],
        cost_belief=winner.belief or space.beliefs[winner.server.gamma],
        server_flags={} if plain else flags(winner.server),
        environment={} if plain else environment(winner.server),
        advice=advice,
        provenance=Provenance(
            scenario=scenario.name,
            hardware=scenario.hardware,
            model=scenario.model,
            engine=scenario.server.engine,
            workload=scenario.workload.arrivals.model_dump(mode="json"),
            slo={klass.name: klass.slo.model_dump() for klass in scenario.workload.classes},
            objective=searched.objective,
            simulator_version=dspark_tuning.__version__,
            truths=scenario.live.model_dump(mode="json"),
            seeds=searched.seeds,
            trials=searched.trials,
            search_space=space.describe(),
        ),
        evidence=tuple(
            EvidenceRow.model_validate({name: None if pd.isna(value) else value for name, value in row.items()})
            for row in versus.to_dict("records")
        ),
    )


def advise(versus: pd.DataFrame, winner: str, objective: Objective, short: Mapping[float, float]) -> str:
    """Advise how to serve, in one or two sentences with the gain over serving without speculation.

    Args:
        versus: See :func:`dspark_tuning.search.comparison.compare`.
        short: TTFT attainment by load, where no arm meets the attainment that the objective requires.
    """
    title = METRICS[objective].title
    plain = versus[(versus["arm"] == baselines.PLAIN) & (versus["metric"] == objective)]
    over_all = plain[plain["load"].isna()].iloc[0]
    # No gain is a ratio of 1 or a difference of 0.
    losing = plain[plain["load"].notna() & (plain["high"] < plain["ratio"].notna().astype(float))]
    if not versus[versus["metric"] == objective]["mean"].max() > 0:
        text = f"No serving mode has any {title} at these loads: check the lengths, service levels and KV pool."
    elif winner == baselines.PLAIN:
        text = f"Serve without speculation: no mode with drafts has a higher {title} at these loads."
    else:
        start = {
            baselines.TUNED: "Serve with DSpark and this policy",
            baselines.STOCK: "Serve an unmodified SGLang with these flags and this cost table: no policy beats them",
            baselines.DEFAULT: "Serve DSpark with SGLang's defaults: no searched candidate beats them",
            baselines.TUNED_FLAGS: "Serve DSpark with these flags and no schedule: no policy beats it",
            baselines.OWN_FLAGS: "Serve DSpark with these flags and no schedule: no policy beats it",
            baselines.ALIGNED_OWN_FLAGS: "Serve SGLang's planner with its table and these flags: no policy beats it",
            baselines.START: "Serve with argmax corrected by the mean live overhead: no searched candidate beats it",
        }.get(winner, f"Serve with '{winner}': no searched candidate beats this baseline")
        text = f"{start}; over all loads its {title} is {_over_plain(over_all)} serving without speculation"
        if len(losing):
            loads = ", ".join(f"{load:g}" for load in losing["load"])
            text += f", but at load {loads} serving without speculation has a higher {title}"
        text += "."
    if short:
        shares = ", ".join(f"{share:.0%} at load {load:g}" for load, share in short.items())
        text += (
            f" No arm meets the TTFT of {REQUIRED_ATTAINMENT:.0%} of the requests at every load; this one comes "
            f"closest, with {shares}."
        )
    return text


def _over_plain(row: pd.Series) -> str:
    if math.isfinite(row["ratio"]):
        return f"{row['ratio']:.2f} times that of"
    more = "above" if row["difference"] >= 0 else "below"
    return f"{abs(row['difference']):.2f}/s {more} that of"
