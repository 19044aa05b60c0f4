"""The base of all policy families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sglang_dspark.policy.belief import MAX_GAMMA
from sglang_dspark.policy.record import Rule

if TYPE_CHECKING:
    from sglang_dspark.policy.families.threshold import Threshold

Length = Annotated[int, Field(ge=0, le=MAX_GAMMA)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Policy(BaseModel, ABC):
    """A verification policy: how many drafts a step may verify, given the load.

    A member adds its parameters, its name ``family``, and the two methods below. Ranking, padding and limits are the
    same for all.

    Attributes:
        needs_belief: The family decides by a cost belief.
        counts_prompts: In an engine whose decoding steps carry prompt tokens (vLLM), the budget is the one with the
            highest expected throughput at the step's whole size (``rule.compute_budget_beside_prompts``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_belief: ClassVar[bool] = False
    counts_prompts: ClassVar[bool] = False
    family: str

    def survival_threshold(self) -> Threshold | None:
        """The survival thresholds by load that the family equals, for reports; None where it has none."""
        return None

    @abstractmethod
    def write(self, record: Any) -> None:
        """Write the parameters into a RULE record whose other fields hold their neutral values."""

    @staticmethod
    @abstractmethod
    def compute_budget(
        rule: Rule, survival: NDArray[np.float32], context: NDArray[np.int64], slo_class: NDArray[np.int64]
    ) -> int:
        """Drafts to verify in a step, before padding and limits. Decorate it with ``jit.njit``.

        Args:
            survival: float32 [R, gamma], lagged.
            context: int64 [R], tokens.
            slo_class: int64 [R].
        """
