"""What every policy family has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from sglang_dspark.policy.belief import MAX_GAMMA

Length = Annotated[int, Field(ge=0, le=MAX_GAMMA)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Policy(BaseModel, ABC):
    """A verification policy: how many drafts a step may verify, given the load.

    A member adds its parameters, its code, and beside it a compiled function ``wanted(rule, survival, context,
    slo_class) -> drafts`` that ``families.wanted`` dispatches to. Ranking, padding and limits are the same for all.

    Attributes:
        code: Number of the family in a compiled rule, by which ``families.wanted`` dispatches.
        needs_belief: The family decides by a cost belief.
        counts_prompts: In an engine whose decoding steps carry prompt tokens (vLLM), the budget is the one with the
            highest expected throughput at the step's whole size (``rule.plan_beside_prompts``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    code: ClassVar[int]
    needs_belief: ClassVar[bool] = False
    counts_prompts: ClassVar[bool] = False
    family: str

    @abstractmethod
    def write(self, record: Any) -> None:
        """Writes the parameters into a RULE record whose other fields hold their neutral values."""
