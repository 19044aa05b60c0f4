"""Step times from a model's shape and a GPU's published peaks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dspark_simulator.costs.base import DRAFT_FIXED_CENTRE, ComputedFrom, CostModel, Seconds, Share, fill_grid, spaced
from dspark_simulator.costs.numeric import CostRecord
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS
from sglang_dspark.shapes import efficiencies
from sglang_dspark.shapes.kv_pool import FlagCosts, flag_costs
from sglang_dspark.shapes.model import DraftShape
from sglang_dspark.shapes.roofline import Roofline


class RooflineCost(Roofline, CostModel):
    """Cost model whose step times are computed by :class:`Roofline`."""

    kind: Literal["roofline"]
    overhead_s: Seconds = efficiencies.OVERHEAD_S
    request_s: Seconds = efficiencies.REQUEST_S
    draft_novelty: Share = efficiencies.DRAFT_NOVELTY

    def tabulate(self, gamma: int | None = None, draft_fixed: float = DRAFT_FIXED_CENTRE) -> CostRecord:
        cost = self._empty_record()
        tokens = np.arange(MAX_TOKENS + 1, dtype=np.float64)
        verify_s = self.verify_s(tokens) + self.head_s(tokens)
        # A prefill pass needs the logits of its last tokens only.
        prefill_s = self.prefill_s(tokens) + self.head_s(np.ones(1))
        launch_s = self.model.depth * self.reached.eager_layer_s
        # The read of the experts that are touched depends on which tokens they are; ``verify_s`` adds it.
        cost["captured_s"][0] = verify_s - self.experts_s() * self.model.touched_share(tokens)
        cost["experts_s"] = self.experts_s()
        cost["expert_share"] = self.model.active_share()
        fill_grid(cost, "eager", spaced(MAX_TOKENS), np.maximum(verify_s, launch_s))
        # A captured prefill still launches the attention of each layer eagerly, hidden behind its kernels.
        at = np.union1d(spaced(MAX_TOKENS), np.array([self.captured_prefill_tokens, self.captured_prefill_tokens + 1]))
        at = at[(at > 0) & (at <= MAX_TOKENS)]
        fill_grid(
            cost,
            "prefill",
            at,
            np.where(tokens <= self.captured_prefill_tokens, prefill_s, np.maximum(prefill_s, launch_s)),
        )
        cost["draft_s"][0] = self.draft_s(np.arange(MAX_REQUESTS + 1, dtype=np.float64), gamma)
        cost["inject_s_per_token"] = self.inject_s_per_token()
        cost["context_s_per_token"] = self.context_s_per_token()
        cost["prefill_context_s"] = self.prefill_context_s()
        return cost

    def source(self) -> str:
        return f"computed from the model's shape and the published peaks of {self.tp} {self.gpu}, not measured"

    def describe(self) -> str:
        reached = self.reached
        return (
            f"Computed, not measured: a roofline of the model's shape and the published peaks of {self.tp} "
            f"{self.gpu}, of which {reached.bandwidth_efficiency:.0%} of the bandwidth and "
            f"{reached.flops_efficiency:.0%} of the FLOP rate are reached."
        )

    def computed_from(self) -> ComputedFrom:
        return ComputedFrom(self.model, self.draft, self.tp, self.gpu)

    def on_gpu(self, gpu: str) -> RooflineCost:
        return RooflineCost.model_validate(self.model_dump() | {"gpu": gpu})

    def with_one_token_draft(self, layers: int) -> RooflineCost:
        return self.model_copy(update={"draft": DraftShape(layers=1, block=1, hidden_states=1, markov_rank=1)})

    def flag_costs(self) -> FlagCosts:
        return flag_costs(self.model, self.draft, self.tp, self.hardware)
