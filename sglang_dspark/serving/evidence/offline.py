"""SGLang's verify planner without a server, for tests and benchmarks: the real planner on stand-ins around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import torch

from sglang_dspark.policy import AnyPolicy, SpsAdditiveTable, Threshold
from sglang_dspark.policy.artifact import Artifact, dumps, untuned
from sglang_dspark.serving.live import LiveServer
from sglang_dspark.serving.live_policy import LivePolicy
from sglang_dspark.serving.settings import Settings

GAMMA: Final = 7

BELIEF: Final = SpsAdditiveTable(
    bias_seconds=0.01,
    bs_probes=(1, 64, 256, 1024),
    alpha_seconds=(0.0, 0.001, 0.004, 0.016),
    m_probes=(1, 64, 512, 2048, 8192),
    theta_seconds=(0.0, 0.001, 0.006, 0.03, 0.15),
)

POLICY: Final = Threshold(running=(1, 32, 256), theta=(0.05, 0.2, 0.5), fill=True)


def artifact(policy: AnyPolicy = POLICY, gamma: int = GAMMA, **fields: Any) -> Artifact:
    """An untuned artifact with this module's belief."""
    return untuned(policy, BELIEF, gamma, **fields)


class OneRank:
    """The part of SGLang's ``GroupCoordinator`` and ``SpecTpSync`` that the planner uses, for one rank."""

    world_size = 1
    rank_in_group = 0
    ranks = (0,)
    cpu_group = None

    def __init__(self) -> None:
        self._tp_group = self

    def sync(self, site: object, values: torch.Tensor) -> torch.Tensor:
        return values


@contextmanager
def planner(
    *,
    gamma: int = GAMMA,
    slots: int = 2048,
    mode: str = "compact",
    overlap: bool = True,
    tiers: Sequence[int] | None = None,
    max_requests: int = 1024,
    replays: bool = True,
    sps_table_path: str | None = None,
    align: bool = False,
    group: Any = None,
    confidence_head: Any = None,
) -> Iterator[Any]:
    """SGLang's ``DSparkVerifyPlanner`` as its worker builds it, on stand-ins for the model and the graph runner.

    Args:
        slots: Rows of the request pool.
        tiers: ``capture_num_tokens`` of a stand-in graph runner; None is a server without graphs.
        max_requests: Its ``max_bs``.
        replays: Its attention backend's ``supports_ragged_verify_graph``.
        group: Ranks; one by default.
        confidence_head: The draft's; a stand-in by default.
    """
    from sglang.srt.speculative.dspark_components import dspark_planner as upstream

    runner = None
    if tiers is not None:
        runner = SimpleNamespace(
            ragged_verify_mode=mode == "compact",
            capture_num_tokens=list(tiers),
            max_bs=max_requests,
            attn_backend=SimpleNamespace(supports_ragged_verify_graph=replays),
        )
    pool = SimpleNamespace(
        req_to_token=torch.zeros((slots, 1), dtype=torch.int32), req_generation=torch.ones(slots, dtype=torch.int64)
    )
    bags = {
        "get_spec": SimpleNamespace(
            speculative_dspark_align_verify_tokens_to_graph_tier=align,
            speculative_dspark_confidence_sts_path=None,
            speculative_dspark_sps_table_path=sps_table_path,
        ),
        "get_schedule": SimpleNamespace(disable_overlap_schedule=not overlap, max_running_requests=max_requests),
        "get_parallel": SimpleNamespace(attn_tp_size=1, attn_cp_size=1, pp_size=1),
        "get_disagg": SimpleNamespace(disaggregation_mode="null"),
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict("os.environ", {"SGLANG_RAGGED_VERIFY_MODE": mode}))
        for name, bag in bags.items():
            stack.enter_context(mock.patch.object(upstream, name, lambda bag=bag: bag))
        for name in ("is_dp_attention_enabled", "require_mlp_tp_gather"):
            stack.enter_context(mock.patch.object(upstream, name, lambda: False))
        yield upstream.DSparkVerifyPlanner(
            draft_model=SimpleNamespace(
                confidence_head=confidence_head or SimpleNamespace(sts_temperatures=torch.ones(()))
            ),
            gamma=gamma,
            model_runner=SimpleNamespace(decode_cuda_graph_runner=runner, req_to_token_pool=pool),
            device="cpu",
            tp_rank=0,
            verify_num_draft_tokens=gamma + 1,
            tp_sync=group or OneRank(),
        )


def attach(target: Any, made: Artifact, **settings: Any) -> LiveServer:
    """Bind an artifact to a planner, as the hook on its constructor does."""
    chosen = Settings(policy="policy.json", **settings)
    policy = LivePolicy(chosen, dumps(made).encode(), target, target._tp_sync._tp_group, None)
    live = LiveServer(chosen, policy, leads=policy.agreement.leads, gamma=policy.gamma, on_cpu=True)
    target.dspark = live
    return live


def batch(requests: int) -> Any:
    """The part of a ``ScheduleBatch`` that a decision reads."""
    request = SimpleNamespace(custom_params=None)
    return SimpleNamespace(
        reqs=[SimpleNamespace(rid=f"{i:032x}", sampling_params=request) for i in range(requests)],
        seq_lens_cpu=torch.full((requests,), 1000),
        req_pool_indices_cpu=torch.arange(1, requests + 1),
        after_idle_gap=False,
    )
