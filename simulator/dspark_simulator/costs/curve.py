"""Cost model of measured curves: verify time by tokens, captured and eager, and draft time by requests."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from dspark_simulator.costs.base import (
    DRAFT_FIXED_CENTRE,
    GridCurve,
    MeasuredCost,
    RequestCurve,
    TokenCurve,
    dense,
)
from dspark_simulator.costs.numeric import CostRecord
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS


class Measurements(BaseModel):
    """The three parts of a measured curve.

    Attributes:
        captured: Verify time of steps run as CUDA graphs.
        eager: Verify time of eager steps; None where none was measured: they then cost as much as captured ones.
        draft: Draft time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    captured: TokenCurve
    eager: GridCurve | None = None
    draft: RequestCurve


class CurveCost(MeasuredCost):
    """Steps timed by measurements, linear between them.

    Attributes:
        curve: The measurements, or the name of a packaged table of them (``data/*.csv``).
    """

    kind: Literal["curve"]
    curve: Measurements

    @field_validator("curve", mode="before", json_schema_input_type=Measurements | str)
    @classmethod
    def _packaged(cls, curve: Any) -> Any:
        return _read_packaged(curve) if isinstance(curve, str) else curve

    @model_validator(mode="after")
    def _contains_its_attention(self) -> Self:
        self._check_context(self.curve.captured.seconds[0])
        return self

    def source(self) -> str:
        return f"interpolated between given measurements of up to {self.curve.captured.tokens[-1]:,} tokens"

    def _describe_measurements(self) -> str:
        captured, draft = self.curve.captured, self.curve.draft
        return (
            "Interpolated between measurements that others published or the scenario gives: verify at "
            f"{len(captured.tokens)} step sizes up to {captured.tokens[-1]:,} tokens, draft at "
            f"{len(draft.requests)} batch sizes up to {draft.requests[-1]:,} requests."
        )

    def with_one_token_draft(self, layers: int) -> CurveCost:
        draft = self.curve.draft
        seconds = tuple(draft_s / layers for draft_s in draft.seconds)
        curve = self.curve.model_copy(update={"draft": draft.model_copy(update={"seconds": seconds})})
        return self.model_copy(update={"curve": curve})

    def measured_tokens(self) -> int:
        return self.curve.captured.tokens[-1]

    def tabulate(self, gamma: int | None = None, draft_fixed: float = DRAFT_FIXED_CENTRE) -> CostRecord:
        captured, draft = self.curve.captured, self.curve.draft
        captured_s = dense(captured.tokens, captured.seconds, MAX_TOKENS)
        draft_s = self._drafting_s(dense(draft.requests, draft.seconds, MAX_REQUESTS), gamma, draft_fixed)
        return self._record(captured_s, captured.tokens[-1], self.curve.eager, draft_s)


def _read_packaged(name: str) -> dict[str, dict[str, list[float]]]:
    folder = resources.files("dspark_simulator") / "data"
    packaged = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".csv"))
    if name not in packaged:
        raise ValueError(
            f"no such packaged curve; choose one of {', '.join(packaged)}, or give the measurements inline"
        )
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    parts: dict[str, dict[str, list[float]]] = {}
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        axis = "requests" if row["part"] == "draft" else "tokens"
        part = parts.setdefault(row["part"], {axis: [], "seconds": []})
        part[axis].append(int(row["at"]))
        part["seconds"].append(float(row["seconds"]))
    return parts
