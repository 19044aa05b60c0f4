"""SGLang's verify planner without a server: to time a decision in one process, and to test what the hooks do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import numpy as np
import torch

from sglang_dspark.policy import AnyPolicy, SpsAdditiveTable, Threshold, sglang_tiers
from sglang_dspark.policy.artifact import Artifact, dumps, untuned
from sglang_dspark.serving import engine
from sglang_dspark.serving.live import Geometry, LivePolicy
from sglang_dspark.serving.recorder import Recorder
from sglang_dspark.serving.settings import Settings

GAMMA: Final = 7
REQUESTS: Final = (16, 256, 1024)

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
    """The part of SGLang's ``GroupCoordinator`` and ``SpecTpSync`` that the planner looks at, for one rank."""

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
    sps_table_path: str | None = None,
    align: bool = False,
    group: Any = None,
) -> Iterator[Any]:
    """SGLang's ``DSparkVerifyPlanner`` as its worker builds it, on stand-ins for the model and the graph runner.

    Args:
        slots: Rows of the request pool.
        tiers: ``capture_num_tokens`` of a stand-in graph runner; None is a server without graphs.
        max_requests: Its ``max_bs``.
        group: Ranks; one by default.
    """
    from sglang.srt.speculative.dspark_components import dspark_planner as upstream

    runner = None
    if tiers is not None:
        runner = SimpleNamespace(
            ragged_verify_mode=mode == "compact", capture_num_tokens=list(tiers), max_bs=max_requests
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
            draft_model=SimpleNamespace(confidence_head=SimpleNamespace(sts_temperatures=torch.ones(()))),
            gamma=gamma,
            model_runner=SimpleNamespace(decode_cuda_graph_runner=runner, req_to_token_pool=pool),
            device="cpu",
            tp_rank=0,
            verify_num_draft_tokens=gamma + 1,
            tp_sync=group or OneRank(),
        )


def attach(target: Any, made: Artifact, **settings: Any) -> LivePolicy:
    """Binds an artifact to a planner, as the hook on its constructor does."""
    asked = Settings(policy="policy.json", **settings)
    live = LivePolicy(asked, dumps(made).encode(), target, target._tp_sync._tp_group, None)
    target.dspark = target._budget_planner.dspark = live
    return live


def batch(requests: int) -> Any:
    """What of a ``ScheduleBatch`` a decision looks at."""
    request = SimpleNamespace(custom_params=None)
    return SimpleNamespace(
        reqs=[SimpleNamespace(sampling_params=request) for _ in range(requests)],
        seq_lens_cpu=torch.full((requests,), 1000),
        req_pool_indices_cpu=torch.arange(1, requests + 1),
    )


def run(rounds: int = 1000) -> dict[str, dict[str, float]]:
    """Times the decision of a step, ours and upstream's, by running requests.

    Ours is all that the hooks add to a step's preparation: the load is noted, ``compute_budget`` answers, the ranks
    (one) agree. Both see the same confidences; upstream's has the additive table of the same belief.

    The recorder's time is what a recorded step costs the scheduler beyond one that is not: every request's context and
    class are noted, and the outcome is handed to the thread that writes.

    Returns:
        Microseconds, medians over ``rounds``, and ours over upstream's.
    """
    torch.set_num_threads(1)
    found = {}
    with planner(tiers=sglang_tiers(1024, GAMMA).tolist()) as ours, planner() as theirs:
        from sglang.srt.speculative.dspark_components.dspark_sps import SpsAdditiveCostTable

        live = attach(ours, artifact())
        fields = json.loads(BELIEF.model_dump_json())
        theirs._budget_planner.sps_table = SpsAdditiveCostTable(**fields)
        geometry = engine.geometry(ours)
        upstream = type(theirs._budget_planner).compute_budget
        upstream = getattr(upstream, "__wrapped__", upstream)
        for requests in REQUESTS:
            arguments = _arguments(requests)
            now = batch(requests)

            def decide(now: Any = now, arguments: Any = arguments) -> None:
                step = live.begin(now, geometry)
                engine.compute_budget(upstream, ours._budget_planner, **arguments)
                live.agree(step, False)
                live.finish()

            def original(arguments: Any = arguments) -> None:
                upstream(theirs._budget_planner, **arguments)

            ours_us, upstream_us = _medians_us((decide, original), rounds)
            found[str(requests)] = {
                "ours_us": round(ours_us, 2),
                "upstream_us": round(upstream_us, 2),
                "ratio": round(ours_us / upstream_us, 4),
                "recorder_us": round(_recorder_us(live, geometry, requests, rounds), 2),
            }
    return found


def _recorder_us(live: LivePolicy, geometry: Geometry, requests: int, rounds: int) -> float:
    now = batch(requests)
    recorder = Recorder(folder="")
    confidence = _arguments(requests)["confidence"]
    lens = torch.full((requests,), 3, dtype=torch.int32)

    def plain() -> None:
        live.begin(now, geometry)

    def recorded() -> None:
        live.detailed, live.observers = True, [recorder]
        step = live.begin(now, geometry)
        step.drafted, step.confidence = True, confidence
        live.observe(step, lens, lens)
        live.detailed, live.observers = False, []
        if len(recorder.waiting) > 1000:
            recorder.waiting.clear()  # A file's worth; another thread writes it.

    plain_us, recorded_us = _medians_us((plain, recorded), rounds)
    return recorded_us - plain_us


def _arguments(requests: int) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(requests)
    ones = torch.ones(requests, dtype=torch.int64)
    return {
        "confidence": torch.from_numpy(draw.beta(4, 1.5, (requests, GAMMA)).astype(np.float32)),
        "generation": ones,
        "current_generation": ones,
        "req_pool_indices_cpu": torch.arange(1, requests + 1),
    }


def _medians_us(calls: Sequence[Any], rounds: int, block: int = 10) -> list[float]:
    """Medians of blocks of calls that take turns, so that a busy machine slows them alike."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds // block + 2):
        for call, kept in zip(calls, times, strict=True):
            started = time.perf_counter()
            for _ in range(block):
                call()
            if turn >= 2:
                kept.append((time.perf_counter() - started) * 1e6 / block)
    return [median(kept) for kept in times]
