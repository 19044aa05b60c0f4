"""SGLang's own cost tables as a cost model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import ValidationInfo, field_validator, model_validator

from dspark_simulator.costs.base import DRAFT_FIXED_CENTRE, GridCurve, MeasuredCost, dense
from dspark_simulator.costs.belief import eager_times
from dspark_simulator.costs.numeric import CostRecord
from sglang_dspark.parsing import parse_json
from sglang_dspark.policy.belief import MAX_TOKENS, CostBelief, SpsTable


class TableCost(MeasuredCost):
    """Steps timed by a cost table of SGLang (``dspark_sps.SpsCostTable`` or ``SpsAdditiveCostTable``).

    The rate table times whole steps including drafting, so skipping the draft saves nothing. Its times are linear
    between probes, constant before the first and extrapolated with the slope of their upper half; the planner of a
    stock server uses the nearest probe below instead (:meth:`planner_table`). In the additive table ``theta`` is the
    verify time, ``alpha`` the draft time and ``bias`` the overhead of a step. SGLang's profiler writes ``alpha`` and
    ``theta`` relative to their first probe, so noise can make them negative; the negative part moves into the overhead,
    which leaves every sum unchanged.

    Attributes:
        table: The table, or the path of a JSON file with it. A relative path starts from the folder ``base`` of the
            validation context, or from the working directory without one.
        eager: Times of eager steps by tokens; if None, they are those of the table.
    """

    kind: Literal["table"]
    table: CostBelief
    eager: GridCurve | None = None

    @field_validator("table", mode="before", json_schema_input_type=CostBelief | str)
    @classmethod
    def _read(cls, table: Any, info: ValidationInfo) -> Any:
        if not isinstance(table, str):
            return table
        base: Path = (info.context or {}).get("base", Path())
        try:
            text = (base / table).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror}); give the path of a JSON file") from error
        return parse_json(text, base / table, "give a table as SGLang's profiler writes it")

    @model_validator(mode="after")
    def _contains_its_attention(self) -> Self:
        if self.table.eager is not None:
            raise ValueError("table has eager times; move them to the cost model's own field eager")
        self._check_context(float(self.tabulate()["captured_s"][0, 1]))
        return self

    def source(self) -> str:
        return "of a given cost table of SGLang's profiler"

    def _describe_measurements(self) -> str:
        return "Looked up in the SGLang cost table that the scenario gives."

    def measured_tokens(self) -> int:
        return (self.table.sample_batch_tokens if isinstance(self.table, SpsTable) else self.table.m_probes)[-1]

    def planner_table(self, gamma: int, draft_fixed: float) -> CostBelief:
        if isinstance(self.table, SpsTable):
            return self.table.model_copy(update={"eager": eager_times(self.tabulate())})
        return super().planner_table(gamma, draft_fixed)

    def tabulate(self, gamma: int | None = None, draft_fixed: float = DRAFT_FIXED_CENTRE) -> CostRecord:
        times = self.table.step_times()
        if isinstance(self.table, SpsTable):
            probes = self.table.sample_batch_tokens
            step_s = dense(probes, [1.0 / rate for rate in self.table.sample_steps_per_sec], MAX_TOKENS)
            return self._record(step_s, probes[-1], self.eager, times.requests_s)
        below_alpha, below_theta = min(0.0, *self.table.alpha_seconds), min(0.0, *self.table.theta_seconds)
        # Differences of rounded sums can be slightly below 0.
        draft_s = np.maximum(times.requests_s - self.table.bias_seconds - below_alpha, 0.0)
        verify_s = np.maximum(times.tokens_s - below_theta, 0.0)
        draft_s = self._drafting_s(draft_s, gamma, draft_fixed)
        cost = self._record(verify_s, self.table.m_probes[-1], self.eager, draft_s)
        for field in ("overhead_s", "plain_overhead_s"):
            cost[field] += self.table.bias_seconds + below_alpha + below_theta
        return cost
