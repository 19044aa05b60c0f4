"""Which loads a recording speaks of, and which ones to record still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

# A load is covered by steps of at most this many times its requests and at least as many over it.
NEAR = 1.3
LEAST_STEPS = 20
# Of a block: nothing, a part, all.
SHARES = (0.0, 0.4, 1.0)
SERVER_S = 300.0
LEAST_S, MOST_S = 5.0, 30.0


class Gap(NamedTuple):
    """A load of which the recording has too few steps.

    Attributes:
        length: Drafts verified a request.
        drafted: The drafter runs.
        steps: Recorded steps that come near.
    """

    requests: int
    length: int
    drafted: bool
    steps: int


class Coverage(NamedTuple):
    """What is covered of the loads that were asked for.

    Attributes:
        grid: Every load and length asked for, with the steps near it.
    """

    grid: tuple[Gap, ...]
    warnings: tuple[str, ...]

    @property
    def gaps(self) -> list[Gap]:
        return [cell for cell in self.grid if cell.steps < LEAST_STEPS]


class Run(NamedTuple):
    """A load to record: so many clients for so long, under a policy that verifies ``length`` drafts or never drafts."""

    clients: int
    length: int
    drafted: bool
    seconds: float


def of(decoded: pd.DataFrame, gamma: int, loads: Sequence[int]) -> Coverage:
    """Looks for steps near every load, at verify lengths of nothing, a part and all of a block, and without a draft.

    Args:
        decoded: As ``step_cells.decodes`` makes them.
        loads: Running requests; the recording's own where empty.
    """
    asked = sorted(set(loads)) or [int(decoded["requests"].max())]
    requests = decoded["requests"].to_numpy()
    length = decoded["verify_tokens"].to_numpy() / requests - 1
    drafted = decoded["drafted"].to_numpy()
    grid = []
    for load in asked:
        near = (requests <= load * NEAR) & (requests >= load / NEAR)
        grid.append(Gap(load, 0, False, int((near & ~drafted).sum())))
        for share in SHARES[1:]:
            wanted = max(1, round(share * gamma))
            beside = near & drafted & (np.abs(length - wanted) <= max(1.0, 0.2 * gamma))
            grid.append(Gap(load, wanted, True, int(beside.sum())))
    missing = [load for load in asked if all(cell.steps < LEAST_STEPS for cell in grid if cell.requests == load)]
    warnings = []
    if missing:
        shown = ", ".join(str(load) for load in missing)
        warnings.append(
            f"No steps near {shown} running requests: what is said of them is extrapolated from {requests.min()} to "
            f"{requests.max()}."
        )
    return Coverage(tuple(grid), tuple(warnings))


def plan(coverage: Coverage, most_s: float = SERVER_S) -> list[Run]:
    """Loads that fill the gaps, together at most ``most_s`` seconds of a server, the largest gaps first.

    As its last requests end a run covers the loads below its own, so the largest load of each kind comes first.
    """
    gaps = sorted(coverage.gaps, key=lambda gap: (gap.steps, -gap.requests))
    if not gaps:
        return []
    each_s = max(LEAST_S, min(MOST_S, most_s / len(gaps)))
    kept = gaps[: int(most_s // each_s)]
    return [Run(gap.requests, gap.length, gap.drafted, each_s) for gap in kept]
