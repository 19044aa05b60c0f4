"""Interpreted Triton attention over ragged rows against plain attention and the CPU engine's backend."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 pytest tests/gpu_check, as make test does", allow_module_level=True)
if importlib.util.find_spec("sglang") is None:
    pytest.skip("sglang is not installed", allow_module_level=True)

from tests.cpu_engine.test_cpu_engine import BEFORE, DIM, HEADS, KV_HEADS, Step, attention

GAMMA = 3
BLOCK = GAMMA + 1
SLOTS, TIERS = 6, [8, 16, 24]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
__all__ = ["attention"]


@pytest.fixture(scope="module")
def ragged(attention: ModuleType) -> ModuleType:
    return importlib.import_module("sglang_dspark.gpu_check.triton_ragged")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN, so that rows that are not written show."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def backend(module: ModuleType, step: Step) -> Any:
    """The backend around a step's cache, without the server that its constructor asks."""
    from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd
    from sglang.srt.mem_cache.kv_index_translator import KVIndexTranslator

    made = module.RaggedTritonBackend.__new__(module.RaggedTritonBackend)
    translator = KVIndexTranslator.__new__(KVIndexTranslator)
    translator.__dict__.update(req_to_token=step.table, page_size=1, _spaces={})
    made.__dict__.update(
        dllm_attention=None,
        sliding_window_size=None,
        window_kv_indptr=None,
        use_sliding_window_kv_pool=False,
        swa_v_head_dim=None,
        target_verify_num_tokens_per_req=BLOCK,
        num_draft_tokens=BLOCK,
        device="cpu",
        dcp_size=1,
        max_context_len=64,
        kv_indptr=torch.zeros(SLOTS + 1, dtype=torch.int32),
        qo_indptr=torch.full((SLOTS + 1,), -1, dtype=torch.int64),
        mask_indptr=torch.zeros(SLOTS + 1, dtype=torch.int64),
        kv_index_translator=translator,
        token_to_kv_pool=step.pool,
        req_to_token_pool=SimpleNamespace(size=SLOTS),
        enable_deterministic=False,
        use_dense_fp8_chunked_prefill=False,
        use_verify_shared_kv=False,
        use_verify_splitkv=False,
        use_mla=False,
        page_size=1,
        extend_attention_fwd=extend_attention_fwd,
        # What a captured graph keeps.
        skip_prefill=True,
        is_draft_runner=False,
        num_head=HEADS,
        max_kv_splits=1,
        v_head_dim=DIM,
        lean_total_programs=1,
        lean_block_m=1,
    )
    return made


def verification(step: Step, layout: Any) -> Any:
    spec = SimpleNamespace(
        draft_token_num=BLOCK, num_tokens_per_req=BLOCK, ragged_verify_layout=layout, custom_mask=None
    )
    batch = step.batch("TARGET_VERIFY", spec)
    batch.__dict__.update(
        batch_size=len(step.before),
        seq_lens_sum=None,
        kv_loc_plan=None,
        extend_seq_lens_cpu=None,
        mha_one_shot=False,
        out_cache_loc_is_physical=False,
        out_cache_loc_virtual=None,
    )
    return batch


def layer(step: Step) -> Any:
    made = step.layer()
    made.__dict__.update(
        k_scale=None, v_scale=None, logit_cap=0.0, logit_capping_method="tanh", xai_temperature_len=-1,
        tp_v_head_num=KV_HEADS,
    )  # fmt: skip
    return made


def packed(lengths: list[int], tiers: list[int]) -> Any:
    from sglang.srt.speculative.ragged_verify import RaggedVerifyLayout

    return RaggedVerifyLayout.from_verify_lens(verify_lens_cpu=lengths, device=torch.device("cpu"), grid=tiers)


def attend(made: Any, step: Step, batch: Any) -> torch.Tensor:
    out: torch.Tensor = made.forward_extend(step.q, step.k.view(-1, KV_HEADS, DIM), step.v.view(-1, KV_HEADS, DIM),
                                            layer(step), batch)  # fmt: skip
    return out


def check(step: Step, got: torch.Tensor, rows: int) -> None:
    """The first ``rows`` rows equal plain attention, including keys and values that the step wrote to the cache."""
    torch.testing.assert_close(got[:rows].double(), step.expected()[:rows], rtol=0, atol=2e-6)


@pytest.mark.parametrize("lengths", [[4, 4, 4, 4], [1, 4, 2, 3], [1, 1, 1, 1], [4, 1, 1, 4]])
@pytest.mark.parametrize("padded", [False, True])
def test_eager_rows_are_each_requests_own(
    ragged: ModuleType, attention: ModuleType, lengths: list[int], padded: bool
) -> None:
    tiers = TIERS if padded else [sum(lengths)]
    layout = packed(lengths, tiers)
    step = Step(attention, BEFORE, lengths, padding=layout.graph_num_tokens - sum(lengths))
    made, batch = backend(ragged, step), verification(step, layout)
    made.init_forward_metadata(batch)
    got = attend(made, step, batch)
    check(step, got, sum(lengths))
    same = step.run(step.batch("TARGET_VERIFY", batch.spec_info), step.layer())
    torch.testing.assert_close(got[: sum(lengths)], same[: sum(lengths)], rtol=0, atol=2e-6)


def test_equal_blocks_need_no_layout(ragged: ModuleType, attention: ModuleType) -> None:
    step = Step(attention, BEFORE, [BLOCK] * 4)
    made, batch = backend(ragged, step), verification(step, None)
    made.init_forward_metadata(batch)
    check(step, attend(made, step, batch), len(step.q))


@pytest.mark.parametrize("lengths", [[1, 4, 2, 3], [4, 4, 4, 4], [1, 1, 1, 1], [3, 1, 4, 1]])
def test_a_replay_reads_lengths_that_it_was_not_captured_with(
    ragged: ModuleType, attention: ModuleType, lengths: list[int]
) -> None:
    """What a captured graph reads are the tensors of the capture's metadata, refilled by each replay's."""
    from sglang.srt.speculative.ragged_verify import build_capture_verify_lens

    layout = packed(lengths, TIERS)
    tier = layout.graph_num_tokens
    step = Step(attention, BEFORE, lengths, padding=tier - sum(lengths))
    made = backend(ragged, step)
    made.init_cuda_graph_state(SLOTS, TIERS[-1])
    slots = min(tier, SLOTS)
    captured = build_capture_verify_lens(num_tokens=tier, num_slots=slots, num_draft_tokens=BLOCK)
    capture = verification(step, packed(captured, TIERS))
    # SGLang's runner makes a mask for a class that it does not know by name.
    capture.spec_info.custom_mask = torch.ones(TIERS[-1] * 64, dtype=torch.bool)
    capture.__dict__.update(
        batch_size=slots, req_pool_indices=torch.zeros(slots, dtype=torch.long), seq_lens=torch.ones(slots).long()
    )
    made.init_forward_metadata_out_graph(capture, in_capture=True)
    metadata = made.forward_metadata
    assert metadata.custom_mask is None
    assert metadata.qo_indptr.diff().tolist() == captured

    replay = verification(step, layout)
    # Requests of padding are in row 0 and have one token.
    rows = torch.cat([replay.req_pool_indices, torch.zeros(slots - 4, dtype=torch.long)])
    before = torch.cat([replay.seq_lens, torch.ones(slots - 4, dtype=torch.long)])
    replay.__dict__.update(batch_size=slots, req_pool_indices=rows, seq_lens=before)
    made.init_forward_metadata_out_graph(replay)
    assert made.forward_metadata is metadata
    assert metadata.qo_indptr.diff().tolist()[:4][:-1] == lengths[:-1]
    assert int(metadata.qo_indptr[-1]) == tier
    assert metadata.kv_indptr.diff().tolist() == before.tolist()
    check(step, attend(made, step, replay), sum(lengths))


def test_the_graph_runner_may_replay_it(ragged: ModuleType) -> None:
    assert ragged.RaggedTritonBackend.supports_ragged_verify_graph is True
