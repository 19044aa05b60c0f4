"""Makes golden.npz: what SGLang 0.5.23's DSpark planner answers to the inputs of this folder.

Run by hand, never by the tests. From the repository's root, with Python 3.11:

    python3.11 -m venv /tmp/golden-venv
    /tmp/golden-venv/bin/pip install --no-deps -r tests/policy/golden/requirements.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu
    /tmp/golden-venv/bin/python -W ignore -m tests.policy.golden.make_golden

The requirements are sglang 0.5.23, CPU torch 2.13.0 and what importing SGLang's scheduler pulls in besides. CPU torch
has no torchvision, which SGLang imports for image models and never calls here: ``_stand_in_torchvision`` puts empty
modules in its place. Every figure comes from SGLang's own functions, on the CPU. Two runs write the same bytes.

Contents of golden.npz, cases in the order of ``inputs.groups()``, lens as upstream counts them (anchor included):

    budget            int16  [cases]         compute_verify_token_budget
    lens              uint8  [sum R]         schedule_verify_lens_topk under that budget
    tier              int16  [cases]         graph_num_tokens of DSparkVerifyPlanner.schedule_layout in compact mode
    filled_budget     int16  [cases]         ... the top-k's budget with
    filled_lens       uint8  [sum R]         --speculative-dspark-align-verify-tokens-to-graph-tier, and its lens
    survival_crc      uint32 [groups]        CRC-32 of the survivals, lagged then current, case by case
    step_crc          uint32 [groups]        CRC-32 of the table's values (SpsCostTable: steps per second, else seconds)
                                             for each of ``probed_requests`` with every budget from none to all drafts
    lagged_budget     int16  [sum steps]     HostConfidenceBudgetPlanner.compute_budget over ``inputs.sequences()``
    lagged_crc        uint32 [sequences]     CRC-32 of the survivals that it computed from
    capture_bs_<n>    int16                  generate_decode_cuda_graph_batch_sizes with max_bs n
    provenance        JSON: versions, SHA-256 of the inputs and of the source of every function used
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import zlib
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from numpy.typing import NDArray

from tests.policy.golden import inputs
from tests.policy.golden.tables import Table


def _stand_in_torchvision() -> None:
    from transformers.utils import import_utils

    # Asked first and remembered, so that transformers does not take the stand-in for the real one.
    import_utils.is_torchvision_available()
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.io"):
        module = MagicMock(name=name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module


_stand_in_torchvision()

import sglang  # noqa: E402
import torch  # noqa: E402
from sglang.kernels.ops.speculative.dspark import dspark_schedule  # noqa: E402
from sglang.srt.arg_groups.cuda_graph_hook import generate_decode_cuda_graph_batch_sizes  # noqa: E402
from sglang.srt.environ import envs  # noqa: E402
from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner  # noqa: E402
from sglang.srt.speculative import ragged_verify  # noqa: E402
from sglang.srt.speculative.dspark_components import dspark_planner, dspark_sps  # noqa: E402

VERSION = "0.5.23"
GOLDEN = Path(__file__).with_name("golden.npz")
USED: tuple[Callable[..., Any] | type, ...] = (
    dspark_planner.DSparkScheduleConfig,
    dspark_planner.compute_verify_token_budget,
    dspark_planner._lookup_sps_tensor,
    dspark_planner._additive_step_time_tensor,
    dspark_planner.HostConfidenceBudgetPlanner,
    dspark_planner.DSparkVerifyPlanner.schedule_layout,
    dspark_planner.DSparkVerifyPlanner._budget_aligned_to_graph_tier,
    dspark_planner.DSparkVerifyPlanner._schedule_verify_lens,
    dspark_planner.local_verify_tier_num_tokens,
    dspark_planner.graph_tier_fill_budget,
    dspark_planner.verify_layout_graph_num_tokens_floor,
    dspark_planner.ragged_layout_exceeds_captured_grid,
    dspark_schedule.compute_sort_survival,
    dspark_schedule.schedule_verify_lens_topk,
    dspark_schedule.schedule_verify_lens_topk_from_survival,
    dspark_schedule._value_independent_descending_order,
    dspark_sps.SpsCostTable,
    dspark_sps.SpsAdditiveCostTable,
    dspark_sps._interp_clamped,
    ragged_verify.round_up_grid,
    generate_decode_cuda_graph_batch_sizes,
    DecodeCudaGraphRunner._build_ragged_verify_token_buckets,
)


def main() -> None:
    if sglang.__version__ != VERSION:
        sys.exit(f"sglang {sglang.__version__} is installed; install sglang=={VERSION}")
    torch.set_num_threads(1)
    groups, sequences = list(inputs.groups()), list(inputs.sequences())
    provenance = {
        "sglang": sglang.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "inputs_sha256": inputs.digest(groups, sequences),
        "source_sha256": {_symbol(used): _sha256(inspect.getsource(used)) for used in USED},
    }
    arrays = {f"capture_bs_{n}": np.array(_capture_bs(n), np.int16) for n in inputs.MAX_REQUESTS}
    arrays |= _cases(groups) | _sequences(sequences)
    np.savez_compressed(GOLDEN, provenance=np.array(json.dumps(provenance, indent=1, sort_keys=True)), **arrays)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size:,} bytes, sha256 {hashlib.sha256(GOLDEN.read_bytes()).hexdigest()}")


def _cases(groups: list[inputs.Group]) -> dict[str, NDArray[Any]]:
    budget, lens, tier, filled_budget, filled_lens, survival_crc, step_crc = [], [], [], [], [], [], []
    for group in groups:
        cfg = dspark_planner.DSparkScheduleConfig(gamma=group.gamma)
        table = _sps_table(group.table)
        plain, filling = _verify_planner(group, align=False), _verify_planner(group, align=True)
        survivals = []
        for lagged, current in zip(group.lagged, group.current, strict=True):
            history = dspark_schedule.compute_sort_survival(torch.from_numpy(lagged))
            confidence = torch.from_numpy(current)
            survivals += [history, dspark_schedule.compute_sort_survival(confidence)]
            decision = dspark_planner.compute_verify_token_budget(
                history_survival_probs=history, sps_table=table, cfg=cfg
            )
            scheduled = dspark_schedule.schedule_verify_lens_topk(
                confidence=confidence, budget=decision.budget, cfg=cfg
            )
            layout = _layout(plain, confidence, decision.budget)
            filled = _layout(filling, confidence, decision.budget)
            assert torch.equal(layout.verify_lens, scheduled)
            assert layout.graph_num_tokens == filled.graph_num_tokens
            budget.append(decision.budget)
            lens.append(scheduled.numpy())
            tier.append(layout.graph_num_tokens)
            filled_budget.append(_filled_budget(filling, len(lagged), decision.budget))
            filled_lens.append(filled.verify_lens.numpy())
        survival_crc.append(_crc(survivals, "<f4"))
        step_crc.append(_crc([_table_values(table, n, group.gamma) for n in inputs.probed_requests(group)], "<f8"))
    return {
        "budget": np.array(budget, np.int16),
        "lens": np.concatenate(lens).astype(np.uint8),
        "tier": np.array(tier, np.int16),
        "filled_budget": np.array(filled_budget, np.int16),
        "filled_lens": np.concatenate(filled_lens).astype(np.uint8),
        "survival_crc": np.array(survival_crc, np.uint32),
        "step_crc": np.array(step_crc, np.uint32),
    }


def _sequences(sequences: list[inputs.Sequence]) -> dict[str, NDArray[Any]]:
    budget, crc = [], []
    for sequence in sequences:
        with envs.SGLANG_DSPARK_CONFIDENCE_RELAY_LAG_STEPS.override(sequence.lag_steps):
            planner = dspark_planner.HostConfidenceBudgetPlanner(
                sps_table=_sps_table(sequence.table),
                cfg=dspark_planner.DSparkScheduleConfig(gamma=sequence.gamma),
                model_runner=SimpleNamespace(
                    req_to_token_pool=SimpleNamespace(req_to_token=torch.zeros((sequence.pool, 1), dtype=torch.int32))
                ),
                relay_lag_steps=sequence.relay_lag_steps,
            )
        assert planner.carry_steps == sequence.carry_steps
        survivals = _recorded(planner)
        for step in sequence.steps:
            budget.append(
                planner.compute_budget(
                    confidence=torch.from_numpy(step.confidence),
                    generation=torch.from_numpy(step.generation),
                    current_generation=torch.from_numpy(step.current_generation),
                    req_pool_indices_cpu=torch.from_numpy(step.slots),
                )
            )
        crc.append(_crc(survivals, "<f4"))
    return {"lagged_budget": np.array(budget, np.int16), "lagged_crc": np.array(crc, np.uint32)}


def _recorded(planner: dspark_planner.HostConfidenceBudgetPlanner) -> list[torch.Tensor]:
    """A list that collects the survivals that the planner computes its budgets from."""
    survivals: list[torch.Tensor] = []
    compute = planner._two_steps_prior_survival

    def record(**arguments: torch.Tensor) -> torch.Tensor:
        survivals.append(compute(**arguments))
        return survivals[-1]

    planner._two_steps_prior_survival = record
    return survivals


def _verify_planner(group: inputs.Group, *, align: bool) -> dspark_planner.DSparkVerifyPlanner:
    """A planner in compact mode on one rank without data parallelism, past the constructor that wants a model."""
    planner = dspark_planner.DSparkVerifyPlanner.__new__(dspark_planner.DSparkVerifyPlanner)
    runner = SimpleNamespace(capture_bs=_capture_bs(group.max_requests), captured_req_width=group.gamma + 1)
    planner.model_runner = SimpleNamespace(
        decode_cuda_graph_runner=SimpleNamespace(
            ragged_verify_mode=True,
            max_bs=max(runner.capture_bs),
            capture_num_tokens=DecodeCudaGraphRunner._build_ragged_verify_token_buckets(runner),
        )
    )
    planner.gamma = group.gamma
    planner.verify_num_draft_tokens = group.gamma + 1
    planner._tp_sync = SimpleNamespace(sync=lambda site, tensor: None)
    planner._align_verify_tokens_to_graph_tier = align
    planner._ragged_verify_mode = ragged_verify.RaggedVerifyMode.COMPACT
    planner._schedule_cfg = dspark_planner.DSparkScheduleConfig(gamma=group.gamma)
    planner._budget_planner = object()
    planner._dynamic_graph_tier = True
    planner._is_verify_all = False
    return planner


def _layout(
    planner: dspark_planner.DSparkVerifyPlanner, confidence: torch.Tensor, budget: int
) -> ragged_verify.RaggedVerifyLayout:
    rows = torch.arange(len(confidence))
    layout = planner.schedule_layout(
        req_pool_indices=rows, prefix_lens=rows, device=torch.device("cpu"), confidence=confidence, budget=budget
    )
    assert layout is not None
    return layout


def _filled_budget(planner: dspark_planner.DSparkVerifyPlanner, requests: int, budget: int) -> int:
    filled: int = planner._budget_aligned_to_graph_tier(
        req_pool_indices=torch.arange(requests), budget=budget, global_num_reqs=None, dp_tier_num_tokens=None
    )
    return filled


def _capture_bs(max_bs: int) -> list[int]:
    server_args = SimpleNamespace(disable_cuda_graph_padding=False, speculative_algorithm="DSPARK")
    sizes: list[int] = generate_decode_cuda_graph_batch_sizes(server_args, max_bs)
    return sizes


def _sps_table(table: Table) -> dspark_sps.SpsCostTable | dspark_sps.SpsAdditiveCostTable:
    form = dspark_sps.SpsAdditiveCostTable if "bias_seconds" in table else dspark_sps.SpsCostTable
    return form.from_json(json.dumps(table))


def _table_values(
    table: dspark_sps.SpsCostTable | dspark_sps.SpsAdditiveCostTable, requests: int, gamma: int
) -> torch.Tensor:
    budgets = requests * gamma + 1
    if isinstance(table, dspark_sps.SpsAdditiveCostTable):
        return dspark_planner._additive_step_time_tensor(table=table, num_requests=requests, num_budgets=budgets)
    tokens = requests + torch.arange(budgets, dtype=torch.int64)
    return dspark_planner._lookup_sps_tensor(sps_table=table, batch_tokens=tokens)


def _crc(tensors: list[torch.Tensor], dtype: str) -> int:
    return zlib.crc32(b"".join(tensor.numpy().astype(dtype).tobytes() for tensor in tensors))


def _symbol(used: Callable[..., Any] | type) -> str:
    return f"{used.__module__}.{used.__qualname__}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()
