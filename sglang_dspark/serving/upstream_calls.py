"""SGLang's own stages on the inputs of ``dspark_kernels.bench``, as its worker calls them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch


def calls(given: Any) -> dict[str, Callable[[], object]]:
    """By stage of the bench; ``given`` is its ``Inputs``."""
    from sglang.kernels.ops.speculative.dspark.dspark_accept import AcceptSampling, SoftmaxTemp
    from sglang.kernels.ops.speculative.dspark.dspark_schedule import ScheduleVerifyLensTopk
    from sglang.kernels.ops.speculative.dspark.markov_sample import MarkovSampleStep

    rows, gamma, _ = given.logits.shape
    offset = torch.zeros(1, dtype=torch.int64, device=given.anchors.device)
    kept = torch.empty_like(given.logits)
    rules = SimpleNamespace(resolved_max_verify_len=lambda: gamma + 1, survival_eps=1e-6, min_verify_len=1)
    candidates = torch.cat([given.anchors[:, None], given.drafts], dim=1)
    sampling = SimpleNamespace(
        temperatures=given.temperatures[:, None], need_top_k_sampling=False, need_top_p_sampling=False
    )

    def draft() -> torch.Tensor:
        tokens: torch.Tensor = given.anchors
        for step in range(gamma):
            tokens = MarkovSampleStep.execute(
                base_logits=given.logits[:, step],
                bias=torch.nn.functional.linear(given.head.w1[tokens], given.head.w2),
                temperatures=given.temperatures,
                key=1,
                offset=offset,
                step=step,
                step_dtype=given.logits.dtype,
                logits_out=kept[:, step],
            )
        return tokens

    def confidence() -> torch.Tensor:
        before = candidates[:, :-1]
        features = torch.cat([given.hidden, given.head.w1[before]], dim=-1).to(given.weight.dtype)
        return torch.sigmoid(torch.nn.functional.linear(features, given.weight[None, :]).squeeze(-1).float() / 1.0)

    def accept() -> object:
        q = SoftmaxTemp.execute(
            logits=kept.view(rows * gamma, -1), temperatures=given.temperatures, rows_per_request=gamma
        )
        return AcceptSampling.execute(
            candidates=candidates,
            target_logits=given.target,
            draft_probs=q.view(rows, gamma, -1),
            sampling_info=sampling,
            draft_input=None,
            gamma=gamma,
            verify_num_draft_tokens=gamma + 1,
        )

    return {
        "draft": draft,
        "confidence": confidence,
        "lengths": lambda: ScheduleVerifyLensTopk.execute(confidence=given.confidences, budget=rows * 3, cfg=rules),
        "accept": accept,
    }
