"""Loads that a recording covers, and loads that remain to be recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

# Steps are near a load if their requests differ from it by at most this factor.
NEAR = 1.3
LEAST_STEPS = 20
# Verified shares of a block to cover.
SHARES = (0.0, 0.4, 1.0)
SERVER_S = 300.0
LEAST_S, MOST_S = 5.0, 30.0


class Gap(NamedTuple):
    """A load and verify length, with the number of recorded steps near them.

    Attributes:
        length: Drafts verified per request.
        drafted: Whether the drafter runs.
        steps: Recorded steps near this load and length.
    """

    requests: int
    length: int
    drafted: bool
    steps: int


class Coverage(NamedTuple):
    """Coverage of the requested loads.

    Attributes:
        grid: Every requested load and length.
    """

    grid: tuple[Gap, ...]
    warnings: tuple[str, ...]

    @property
    def gaps(self) -> list[Gap]:
        """Loads and lengths with too few steps."""
        return [cell for cell in self.grid if cell.steps < LEAST_STEPS]


class Run(NamedTuple):
    """A run to record: clients, duration, and a policy that verifies ``length`` drafts or never drafts."""

    clients: int
    length: int
    drafted: bool
    seconds: float


def of(decoded: pd.DataFrame, gamma: int, loads: Sequence[int]) -> Coverage:
    """Count the steps near every load, for several verify lengths and without drafting.

    Args:
        decoded: See :func:`dspark_tuning.measuring.calibrate.step_cells.decodes`.
        loads: Numbers of running requests; by default the largest in the recording.
    """
    requested = sorted(set(loads)) or [int(decoded["requests"].max())]
    requests = decoded["requests"].to_numpy()
    length = decoded["verify_tokens"].to_numpy() / requests - 1
    drafted = decoded["drafted"].to_numpy()
    grid = []
    for load in requested:
        near = (requests <= load * NEAR) & (requests >= load / NEAR)
        grid.append(Gap(load, 0, False, int((near & ~drafted).sum())))
        for share in SHARES[1:]:
            drafts = max(1, round(share * gamma))
            beside = near & drafted & (np.abs(length - drafts) <= max(1.0, 0.2 * gamma))
            grid.append(Gap(load, drafts, True, int(beside.sum())))
    missing = [load for load in requested if all(cell.steps < LEAST_STEPS for cell in grid if cell.requests == load)]
    warnings = []
    if missing:
        shown = ", ".join(str(load) for load in missing)
        warnings.append(
            f"No steps near {shown} running requests: step times there are extrapolated from {requests.min()} to "
            f"{requests.max()}."
        )
    return Coverage(tuple(grid), tuple(warnings))


def plan(coverage: Coverage, most_s: float = SERVER_S) -> list[Run]:
    """Runs that fill the gaps within ``most_s`` seconds of server time, the largest gaps first.

    While its last requests end, a run also covers lower loads, so higher loads come first.
    """
    gaps = sorted(coverage.gaps, key=lambda gap: (gap.steps, -gap.requests))
    if not gaps:
        return []
    each_s = max(LEAST_S, min(MOST_S, most_s / len(gaps)))
    kept = gaps[: int(most_s // each_s)]
    return [Run(gap.requests, gap.length, gap.drafted, each_s) for gap in kept]
