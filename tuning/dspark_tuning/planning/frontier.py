"""Throughput against the speed of a user and verified tokens against concurrency, in closed loops."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Final, NamedTuple

from dspark_simulator.scenario import Run, Scenario, seeds
from dspark_simulator.simulation import Arm
from dspark_tuning.search.evaluation import Cell, evaluate

CLIENTS: Final = (1, 4, 16, 64, 128, 256, 512)
REPLICATIONS: Final = 2


class Point(NamedTuple):
    """Figures of a closed loop.

    Attributes:
        speed_tok_s: Speed of a user, 1 / mean TPOT.
        throughput_tok_s: Output tokens per second and GPU.
        verify_tokens: Tokens verified per round and request, anchor included.
    """

    serving: str
    clients: int
    speed_tok_s: float
    throughput_tok_s: float
    verify_tokens: float


def frontier(modes: Mapping[str, tuple[Scenario, Arm]], seed: int, pool: Executor | None) -> list[Point]:
    """Points of every serving mode, as in Figures 7 and 8 of arXiv 2607.05147."""
    points = []
    for name, (scenario, arm) in modes.items():
        closed = scenario.model_copy(
            update={
                "workload": scenario.workload.with_clients(1),
                "replicas": 1,
                "run": Run(),
            }
        )
        cells = [Cell(arm, clients, s) for clients in CLIENTS for s in seeds("report", seed, REPLICATIONS)]
        means = evaluate(closed, cells, pool).groupby("load").mean(numeric_only=True).to_dict("index")
        for clients in CLIENTS:
            row = means[clients]
            verified = 1.0 + (row["verify_length"] if arm.server.speculative else 0.0)
            points.append(
                Point(
                    name,
                    clients,
                    1.0 / row["tpot_mean_s"],
                    row["throughput_tok_s"] / scenario.gpus,
                    verified,
                )
            )
    return points
