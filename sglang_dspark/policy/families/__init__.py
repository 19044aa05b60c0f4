"""The policy families. A new one is a file here, a member of ``AnyPolicy``, and a branch of ``wanted``."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sglang_dspark.jit import njit
from sglang_dspark.policy.families import argmax, fixed, greedy, threshold
from sglang_dspark.policy.families.argmax import Argmax
from sglang_dspark.policy.families.base import Policy
from sglang_dspark.policy.families.fixed import Fixed
from sglang_dspark.policy.families.greedy import Greedy
from sglang_dspark.policy.families.none import NoDraft
from sglang_dspark.policy.families.static import Static
from sglang_dspark.policy.families.threshold import Threshold
from sglang_dspark.policy.record import Rule, write_scores

AnyPolicy = Annotated[
    NoDraft | Fixed | Static | Greedy | Argmax | Threshold,
    Field(discriminator="family"),
]

__all__ = ["AnyPolicy", "Argmax", "Fixed", "Greedy", "NoDraft", "Policy", "Static", "Threshold", "wanted"]

NO_BRANCH = -1

_NONE, _FIXED, _GREEDY, _ARGMAX, _THRESHOLD = NoDraft.code, Fixed.code, Greedy.code, Argmax.code, Threshold.code


@njit(cache=True)
def wanted(rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]) -> int:
    """Drafts that the rule's family would verify in this step, before padding and limits.

    Returns:
        Drafts, or ``NO_BRANCH`` for a code that no branch below handles; ``compile_rule`` refuses such a family.
    """
    record = rule[0]
    requests = survival.shape[0]
    if record.family == _FIXED:
        return fixed.wanted(rule, requests)
    if record.family == _GREEDY:
        return greedy.wanted(rule, requests, write_scores(rule, survival, context, slo_class, 0, record.max_length))
    if record.family == _ARGMAX:
        return argmax.wanted(rule, requests, write_scores(rule, survival, context, slo_class, 0, record.max_length))
    if record.family == _THRESHOLD:
        return threshold.wanted(rule, survival, context, slo_class)
    if record.family == _NONE:
        return 0
    return NO_BRANCH
