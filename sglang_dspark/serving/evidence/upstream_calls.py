"""SGLang's own stages on the inputs of ``dspark_kernels.bench``, as its worker calls them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from dspark_kernels.bench.operations import BenchInputs, Calls, with_round
from dspark_kernels.startup.served_shapes import ServedShapes


def calls(given: BenchInputs, served: ServedShapes) -> Calls:
    """Calls by operation of the bench, and the whole round."""
    from sglang.kernels.ops.speculative.dspark.dspark_accept import AcceptSampling, SoftmaxTemp
    from sglang.kernels.ops.speculative.dspark.dspark_schedule import ScheduleVerifyLensTopk
    from sglang.srt.speculative.dspark_components.dspark_draft import DraftNoise, draft_markov_block

    rows, gamma, _ = given.logits.shape
    head, sync = _head(given, served), SimpleNamespace(sync=lambda site, tokens: tokens)
    noise = DraftNoise(key=1, offset=torch.zeros(1, dtype=torch.int64, device=given.anchors.device))
    rules = SimpleNamespace(resolved_max_verify_len=lambda: gamma + 1, survival_eps=1e-6, min_verify_len=1)
    candidates = torch.cat([given.anchors[:, None], given.drafts], dim=1)
    sampling = SimpleNamespace(
        temperatures=given.temperatures[:, None], need_top_k_sampling=False, need_top_p_sampling=False
    )

    def draft(sample: bool) -> object:
        return draft_markov_block(
            markov_head=head,
            base_logits=given.logits,
            anchor_tokens=given.anchors,
            draft_hidden=given.hidden,
            step_temperatures=given.temperatures,
            noise=noise,
            tp_sync=sync,
            logits_out=given.kept if sample else None,
            greedy_draft=not sample,
        )

    def confidence() -> torch.Tensor:
        before = candidates[:, :-1]
        features = torch.cat([given.hidden, given.head.w1[before]], dim=-1).to(given.weight.dtype)
        return torch.sigmoid(torch.nn.functional.linear(features, given.weight[None, :]).squeeze(-1).float() / 1.0)

    def accept() -> object:
        q = SoftmaxTemp.execute(
            logits=given.kept.view(rows * gamma, -1), temperatures=given.temperatures, rows_per_request=gamma
        )
        return AcceptSampling.execute(
            candidates=candidates,
            target_logits=given.target.flatten(0, 1),
            draft_probs=q.view(rows, gamma, -1),
            sampling_info=sampling,
            draft_input=None,
            gamma=gamma,
            verify_num_draft_tokens=gamma + 1,
        )

    return with_round(
        {
            "draft sampled": lambda: draft(True),
            "draft greedy": lambda: draft(False),
            "confidence": confidence,
            "lengths": lambda: ScheduleVerifyLensTopk.execute(confidence=given.confidences, budget=rows * 3, cfg=rules),
            "accept": accept,
        }
    )


def _head(given: BenchInputs, served: ServedShapes) -> Any:
    """SGLang's head of that kind with the bench's weights."""
    from sglang.srt.models.dspark import GatedMarkovHead, RNNHead, VanillaMarkov

    class WithOwnW2(VanillaMarkov):  # type: ignore[misc]
        """DeepSeek-V4's: ``W2`` and the kept logits have dtypes of their own, and one greedy row no fused kernel."""

        def project_bias(self, latent_states: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(latent_states.to(served.w2), self.markov_w2.weight)

        def step_logits_dtype(self, base_dtype: torch.dtype) -> torch.dtype:
            return served.kept

    shape: dict[str, int] = {"vocab_size": served.vocab, "markov_rank": served.rank}
    own_w2 = served.w2 != served.w1 or served.kept != torch.promote_types(served.logits, served.w1)
    with torch.device("meta"):
        if served.kind == "gated":
            head = GatedMarkovHead(**shape, hidden_size=served.hidden)
        elif served.kind == "rnn":
            head = RNNHead(**shape, hidden_size=served.hidden)
        else:
            head = WithOwnW2(**shape) if own_w2 else VanillaMarkov(**shape)
    weights = {"markov_w1.weight": given.head.w1, "markov_w2.weight": given.head.w2}
    if given.head.joint is not None and given.head.bias is not None:
        projection = {"gated": "gate_proj", "rnn": "joint_proj"}[served.kind]
        weights |= {f"{projection}.weight": given.head.joint, f"{projection}.bias": given.head.bias}
    head.load_state_dict(weights, assign=True)
    return head.requires_grad_(False)
