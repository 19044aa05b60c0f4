"""The survivals of the last drafting steps, by slot: the budget of a step sees those of ``lag`` drafting steps before.

A step that does not draft writes nothing and ages nothing, as in SGLang
(``HostConfidenceBudgetPlanner._two_steps_prior_survival``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspark_simulator.state import MAX_LAG, Record
from sglang_dspark.jit import njit
from sglang_dspark.policy.lag import unseen

_STEPS = MAX_LAG + 1


@njit(cache=True)
def current(state: Record) -> NDArray[np.float32]:
    """float32 [running, MAX_GAMMA] to write the survivals of this step to."""
    s = state[0]
    survival: NDArray[np.float32] = s.survival[s.round % _STEPS, : s.running]
    return survival


@njit(cache=True)
def lagged(state: Record, lag: int) -> NDArray[np.float32]:
    """float32 [running, MAX_GAMMA], the survivals of ``lag`` drafting steps before; certain for newer requests."""
    s = state[0]
    survival: NDArray[np.float32] = s.survival[(s.round - lag) % _STEPS, : s.running]
    for r in range(s.running):
        if s.drafts[r] < lag:
            unseen(survival[r])
    return survival


@njit(cache=True)
def advance(state: Record) -> None:
    """Ends a drafting step: what :func:`current` holds is one step old from now on."""
    state[0].round += 1


@njit(cache=True)
def move(state: Record, source: int, slot: int) -> None:
    """Copies the survivals of slot ``source`` to ``slot``."""
    survival = state[0].survival
    for step in range(_STEPS):
        for j in range(survival.shape[2]):
            survival[step, slot, j] = survival[step, source, j]
