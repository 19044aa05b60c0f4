"""Cost models against upstream's look-ups, published measurements and closed forms."""

from __future__ import annotations

import bisect
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from dspark_simulator.costs import COST, Cost, CostModel, CostRecord, CurveCost, RooflineCost, live, sps_additive
from dspark_simulator.costs.numeric import draft_s, eager_s, host_s, inject_s, prefill_s, verify_s
from sglang_dspark.errors import from_validation
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS
from sglang_dspark.shapes.gpus import GPUS
from sglang_dspark.shapes.model import DraftShape, ModelShape
from tests.published_data import published

PARSER: TypeAdapter[CostModel] = TypeAdapter(Cost)

# DeepSeek-V4-Flash-0731: its config.json, whose values SGLang's DeepSeekV4Config has as defaults. Layers 0 and 1 see
# the window only; compress ratios 4 and 128 alternate from layer 2 on.
_V4_WINDOW = {
    "kind": "csa",
    "heads": 64,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "o_lora_rank": 1024,
    "o_groups": 8,
    "window": 128,
}
V4_FLASH = {
    "layers": 43,
    "hidden": 4096,
    "vocab": 129280,
    "streams": 4,
    "format": "fp8",
    "bytes_per_weight": 1.0,
    "attention": [
        {**_V4_WINDOW, "layers": 2, "ratio": 0},
        {**_V4_WINDOW, "layers": 21, "ratio": 4, "top_k": 512, "index_heads": 64, "index_dim": 128},
        {**_V4_WINDOW, "layers": 20, "ratio": 128},
    ],
    "feed_forward": {
        "kind": "moe",
        "intermediate": 2048,
        "experts": 256,
        "active": 6,
        "shared_intermediate": 2048,
        "expert_stored": {"format": "fp4_fp8", "bytes_per_weight": 0.53125},
    },
}
V4_FLASH_DRAFT = {"layers": 3, "block": 7, "hidden_states": 3, "markov_rank": 256}
QWEN3_DRAFT = {"layers": 5, "block": 7, "hidden_states": 5, "markov_rank": 256}


def qwen3(layers: int, hidden: int, heads: int, intermediate: int, tied: bool) -> dict[str, Any]:
    return {
        "layers": layers,
        "hidden": hidden,
        "vocab": 151936,
        "tied": tied,
        "attention": {"kind": "gqa", "heads": heads, "kv_heads": 8, "head_dim": 128},
        "feed_forward": {"kind": "dense", "intermediate": intermediate},
    }


QWEN3 = {
    "Qwen3-4B": qwen3(36, 2560, 32, 9728, True),
    "Qwen3-8B": qwen3(36, 4096, 32, 12288, False),
    "Qwen3-14B": qwen3(40, 5120, 40, 17408, False),
}

# One dense layer whose parts are all of hand-computable size, on ideal hardware without latencies.
TINY = {
    "layers": 2,
    "hidden": 64,
    "vocab": 1000,
    "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 16},
    "feed_forward": {"kind": "dense", "intermediate": 256},
}
IDEAL = {
    "bandwidth_efficiency": 1.0,
    "flops_efficiency": 1.0,
    "draft_novelty": 1.0,
    "request_s": 0.0,
    "activation_passes": 0.0,
    "layer_s": 0.0,
    "eager_layer_s": 0.0,
    "allreduce_s": 0.0,
    "markov_s": 0.0,
    "overhead_s": 0.0,
}
B300 = {
    "kind": "curve",
    "curve": "b300_v4flash_curve.csv",
    "profiled_context": 8192,
    "context_s_per_token": 1.2e-10,
    "prefill_context_s": 1.3e-10,
    "inject_s_per_token": 2.5e-7,
}


def tabulated(model: dict[str, Any]) -> CostRecord:
    return PARSER.validate_python(model).tabulate()


def roofline(gpu: str, model: dict[str, Any], **fields: Any) -> RooflineCost:
    return RooflineCost.model_validate({"kind": "roofline", "gpu": gpu, "model": model, **fields})


def medians(part: str, region: str) -> dict[int, float]:
    with published("vllm_blog_b300_costcurve.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "median_of_5"]
    return {int(r["x"]): float(r["cost_ms"]) / 1e3 for r in rows if r["curve"] == part and r["region"] == region}


def interpolated(probes: Sequence[int], values: Sequence[float], x: float) -> float:
    """Independent implementation of upstream's clamped interpolation."""
    if x <= probes[0]:
        return values[0]
    if x >= probes[-1]:
        return values[-1]
    high = bisect.bisect_right(probes, x)
    share = (x - probes[high - 1]) / (probes[high] - probes[high - 1])
    return values[high - 1] + share * (values[high] - values[high - 1])


# --- tables


RATES = {
    "sample_batch_tokens": [4, 8, 100, 512],
    "sample_steps_per_sec": [90.0, 80.0, 60.0, 20.0],
    "max_batch_tokens": 600,
}


def test_steps_of_a_rate_table_are_linear_between_its_probes() -> None:
    probes, seconds = RATES["sample_batch_tokens"], [1 / rate for rate in RATES["sample_steps_per_sec"]]
    cost = tabulated({"kind": "table", "table": RATES})
    for tokens in [*range(1, 130), 511, 512]:
        wanted = interpolated(probes, seconds, tokens)
        assert verify_s(cost, tokens, True, 0, 1) == pytest.approx(wanted, rel=1e-12)
    # Beyond the last probe a step grows with the slope of the upper half.
    slope = (seconds[3] - seconds[2]) / (512 - 100)
    for tokens in (513, 5000):
        assert verify_s(cost, tokens, True, 0, 1) == pytest.approx(seconds[3] + slope * (tokens - 512), rel=1e-12)
    assert draft_s(cost, 64) == 0.0


def test_the_planner_of_a_rate_table_looks_it_up_at_the_probe_below() -> None:
    table = PARSER.validate_python({"kind": "table", "table": RATES}).planner_table(5, 0.5)
    times = table.step_times()
    assert times.is_rate
    for tokens in [*range(1, 130), 511, 512, 513, 5000]:
        rate = RATES["sample_steps_per_sec"][max(bisect.bisect_right(RATES["sample_batch_tokens"], tokens) - 1, 0)]
        assert times.tokens_s[tokens] == rate


def test_published_live_steps_are_nearer_to_a_line_in_time_than_in_rate() -> None:
    """Steps of 7 and 8 requests of about 4 tokens each, padded to 30 and 36; they lie between probes."""
    with published("gb10_v41flash_sps_table.csv").open() as file:
        rates = {int(row["batch_tokens"]): float(row["steps_per_s"]) for row in csv.DictReader(file)}
    with published("gb10_v41flash_live_steps.csv").open() as file:
        live_s = {int(row["running_requests"]): float(row["step_time_ms"]) / 1e3 for row in csv.DictReader(file)}
    table = {"sample_batch_tokens": list(rates), "sample_steps_per_sec": list(rates.values()), "max_batch_tokens": 288}
    cost = tabulated({"kind": "table", "table": table})
    for requests, tokens in ((7, 30), (8, 36)):
        in_time = verify_s(cost, tokens, True, 0, requests)
        in_rate = 1 / interpolated(list(rates), list(rates.values()), tokens)
        assert abs(in_time - live_s[requests]) < abs(in_rate - live_s[requests])


@pytest.mark.parametrize(
    ("alpha", "theta"),
    [((0.0, 0.001, 0.004), (0.0, 0.002, 0.009)), ((0.0, -0.0004, 0.004), (0.001, 0.0, -0.0002))],
    ids=["positive", "noise below the first probe"],
)
def test_additive_table_keeps_every_sum(alpha: tuple[float, ...], theta: tuple[float, ...]) -> None:
    requests, tokens = [1, 8, 64], [8, 64, 512]
    table = {
        "bias_seconds": 0.007,
        "bs_probes": requests,
        "alpha_seconds": alpha,
        "m_probes": tokens,
        "theta_seconds": theta,
    }
    cost = tabulated({"kind": "table", "table": table, "overhead_s": 0.001})
    assert (cost["captured_s"] >= 0).all() and (cost["draft_s"] >= 0).all()
    for r in (1, 3, 8, 40, 64, 200):
        for m in (1, 8, 30, 64, 300, 512, 4000):
            step_s = cost[0]["overhead_s"] + draft_s(cost, r) + verify_s(cost, m, True, 0, r)
            wanted = 0.008 + interpolated(requests, alpha, r) + interpolated(tokens, theta, m)
            assert step_s == pytest.approx(wanted, rel=1e-12)


def test_table_is_read_from_a_file_beside_the_scenario(tmp_path: Path) -> None:
    table = {"sample_batch_tokens": [1, 64], "sample_steps_per_sec": [100.0, 50.0], "max_batch_tokens": 64}
    (tmp_path / "sps.json").write_text(json.dumps(table))
    model = PARSER.validate_python({"kind": "table", "table": "sps.json"}, context={"base": tmp_path})
    assert verify_s(model.tabulate(), 64, True, 0, 1) == pytest.approx(0.02)


# --- measured curve


def test_curve_equals_the_published_medians_and_is_linear_between() -> None:
    cost = tabulated(B300)
    captured, eager, draft = (
        medians("verify", "cudagraph"),
        medians("verify", "eager tail"),
        medians("draft", "cudagraph"),
    )
    assert len(captured) == 83 and len(eager) == 5 and len(draft) == 35
    for tokens, seconds in captured.items():
        assert verify_s(cost, tokens, True, 3 * 8192, 3) == pytest.approx(seconds, rel=1e-12)
    for tokens, seconds in eager.items():
        assert eager_s(cost, tokens) == pytest.approx(seconds, rel=1e-12)
        assert prefill_s(cost, tokens, 0.0) == pytest.approx(seconds, rel=1e-12)
    for requests, seconds in draft.items():
        assert draft_s(cost, requests) == pytest.approx(seconds, rel=1e-12)
    assert cost[0]["captured_s"][1018] == pytest.approx((6 * captured[1008] + 10 * captured[1024]) / 16, rel=1e-12)
    assert eager_s(cost, 3072) == pytest.approx((eager[2048] + eager[4096]) / 2, rel=1e-12)


@pytest.mark.parametrize("model", ["curve", "table"])
def test_measured_draft_time_is_a_fixed_share_of_one_request_and_the_rest_by_positions(model: str) -> None:
    alpha = (0.002, 0.0035, 0.0105)
    if model == "curve":
        measured: dict[str, Any] = {
            "captured": {"tokens": [1, 8], "seconds": [0.01, 0.02]},
            "draft": {"requests": [1, 4, 18], "seconds": alpha},
        }
    else:
        measured = {"bias_seconds": 0.001, "bs_probes": [1, 4, 18], "alpha_seconds": alpha, "m_probes": [1, 8]}
        measured["theta_seconds"] = [0.01, 0.02]
    cost = PARSER.validate_python({"kind": model, model: measured, "draft_block": 7})
    at = {gamma: cost.tabulate(gamma, 0.5) for gamma in (2, 5, 7)}
    for requests, seconds in zip((1, 4, 18), alpha, strict=True):
        assert draft_s(at[7], requests) == pytest.approx(seconds, rel=1e-12)
        for gamma in (2, 5):
            wanted = 0.001 + gamma / 7 * (seconds - 0.001)
            assert draft_s(at[gamma], requests) == pytest.approx(wanted, rel=1e-12)
    for fixed in (0.0, 1.0):
        wanted = alpha[1] * 2 / 7 if fixed == 0 else 0.002 + 2 / 7 * 0.0015
        assert draft_s(cost.tabulate(2, fixed), 4) == pytest.approx(wanted, rel=1e-12)


def test_the_belief_of_a_shorter_block_drafts_less() -> None:
    cost = PARSER.validate_python(B300 | {"draft_block": 7})
    tables = {gamma: sps_additive(cost.tabulate(gamma, 0.5), 256, 1024) for gamma in (3, 7)}
    for requests in (1, 64, 256):
        alpha = {g: interpolated(t.bs_probes, t.alpha_seconds, requests) for g, t in tables.items()}
        fixed_s = 0.5 * medians("draft", "cudagraph")[1]
        assert alpha[3] == pytest.approx(fixed_s + 3 / 7 * (alpha[7] - fixed_s), rel=1e-9)
    assert tables[3].theta_seconds == tables[7].theta_seconds


def test_a_step_past_the_capture_limit_is_the_published_jump() -> None:
    cost = tabulated(B300)
    assert verify_s(cost, 1024, True, 8192, 1) == pytest.approx(20.63e-3)
    assert verify_s(cost, 1025, False, 8192, 1) == pytest.approx(104.49e-3)
    assert prefill_s(cost, 1024, 0.0) == pytest.approx(20.63e-3)
    assert prefill_s(cost, 1025, 0.0) == pytest.approx(104.49e-3)


def test_captured_steps_past_the_last_measurement_go_on_as_its_upper_half() -> None:
    cost = tabulated(B300)
    captured = medians("verify", "cudagraph")
    slope = (captured[1024] - captured[512]) / 512
    assert cost[0]["captured_s"][4096] == pytest.approx(captured[1024] + 3072 * slope)
    # The eager tail is the same work behind a launch floor: a captured step cannot take longer.
    assert cost[0]["captured_s"][16384] < eager_s(cost, 16384)


def test_eager_time_past_the_last_measurement_goes_on() -> None:
    cost = tabulated(B300)
    slope = (234.89e-3 - 135.66e-3) / 8192
    assert eager_s(cost, 17000) == pytest.approx(234.89e-3 + 616 * slope, rel=1e-9)
    assert eager_s(cost, 20000) == pytest.approx(234.89e-3 + 3616 * slope, rel=1e-9)


def test_own_prefill_curve_takes_the_place_of_the_verify_curve() -> None:
    cost = tabulated({**B300, "prefill": {"tokens": [100, 1100], "seconds": [0.01, 0.03]}})
    assert prefill_s(cost, 600, 0.0) == pytest.approx(0.02)
    assert prefill_s(cost, 50, 0.0) == pytest.approx(0.01)
    assert prefill_s(cost, 600, 1e6) == pytest.approx(0.02 + 1e6 * 1.3e-10)


def test_context_is_charged_as_the_difference_from_the_profile() -> None:
    per_token = 1e-7
    cost = tabulated({**B300, "context_s_per_token": per_token})
    base = float(cost[0]["captured_s"][256])
    assert verify_s(cost, 256, True, 32 * 8192 + 5000, 32) == pytest.approx(base + 5000 * per_token)
    assert verify_s(cost, 256, True, 32 * 8192 - 5000, 32) == pytest.approx(base - 5000 * per_token)
    assert verify_s(cost, 256, True, 0, 256) == pytest.approx(5.11e-3 - 8192 * per_token), "the weights are still read"
    eager = verify_s(cost, 2048, False, 256 * 8192 + 10**6, 256) - eager_s(cost, 2048)
    assert eager == pytest.approx(10**6 * per_token)


def test_injection_is_by_token() -> None:
    assert inject_s(tabulated(B300), 1024) == pytest.approx(1024 * 2.5e-7)


# --- the truth around a belief


@pytest.mark.parametrize(("captured", "tokens"), [(True, 700), (False, 3000)])
def test_live_scales_verify_and_adds_to_the_overhead(captured: bool, tokens: int) -> None:
    belief = tabulated({**B300, "overhead_s": 0.001})
    before = belief.copy()
    truth = live(belief, 0.004, 1.3)
    for context in (0, 10**6, 10**7):
        assert verify_s(truth, tokens, captured, context, 88) == pytest.approx(
            1.3 * verify_s(belief, tokens, captured, context, 88), rel=1e-12
        )
    assert truth[0]["overhead_s"] == pytest.approx(0.005)
    assert draft_s(truth, 88) == draft_s(belief, 88)
    assert prefill_s(truth, 3000, 1e6) == prefill_s(belief, 3000, 1e6)
    assert inject_s(truth, 10) == inject_s(belief, 10)
    assert (belief == before).all(), "the belief must not change"
    assert (live(belief, 0.0, 1.0) == belief).all()


@pytest.mark.parametrize(("overhead", "slope"), [(0.0, 0.0), (0.0, float("nan")), (-0.01, 1.0), (float("inf"), 1.0)])
def test_live_refuses_what_no_server_does(overhead: float, slope: float) -> None:
    with pytest.raises(ValueError, match="not valid"):
        live(tabulated(B300), overhead, slope)


@pytest.mark.parametrize("overhead", [0.0, 0.003])
def test_profiled_belief_sums_to_the_step_at_what_is_captured(overhead: float) -> None:
    cost = tabulated({**B300, "overhead_s": overhead})
    table = sps_additive(cost, 512, 2048)
    assert table.bias_seconds > 0
    assert table.bs_probes[-1] == 512 and table.m_probes[-1] == 2048
    times = table.step_times()
    for requests in (1, 5, 8, 100, 256, 512):
        for tokens in (1, 7, 8, 96, 255, 1024, 1040, 2048):
            wanted = overhead + draft_s(cost, requests) + cost[0]["captured_s"][tokens]
            assert times.requests_s[requests] + times.tokens_s[tokens] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("requests", "tokens"), [(0, 8), (8, 0), (MAX_REQUESTS + 1, 8), (8, MAX_TOKENS + 1)])
def test_profiled_belief_refuses_probes_outside_the_record(requests: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="not valid; give 1"):
        sps_additive(tabulated(B300), requests, tokens)


# --- roofline: closed forms


def test_one_token_takes_the_bytes_over_the_bandwidth() -> None:
    layer = 64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 3 * 64 * 256
    read = 2 * (2 * layer + 64 * 1000)
    cost = roofline("H200", TINY, **IDEAL).tabulate()
    assert verify_s(cost, 1, True, 0, 1) == pytest.approx(read / 4.8e12, rel=1e-12)


def test_many_tokens_take_the_multiplications_over_the_rate() -> None:
    layer = 64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 3 * 64 * 256
    operations = 2 * 8000 * (2 * layer + 64 * 1000)
    cost = roofline("H200", TINY, **IDEAL).tabulate()
    assert verify_s(cost, 8000, True, 0, 1) == pytest.approx(operations / 989.4e12, rel=1e-12)
    half = roofline("H200", TINY, **{**IDEAL, "flops_efficiency": 0.5}).tabulate()
    assert verify_s(half, 8000, True, 0, 1) == pytest.approx(2 * operations / 989.4e12, rel=1e-12)


def test_latencies_activations_and_allreduce_add_up() -> None:
    plain = roofline("H200", TINY, **{**IDEAL, "tp": 2}).tabulate()
    slow = {**IDEAL, "tp": 2, "layer_s": 3e-6, "allreduce_s": 5e-6, "eager_layer_s": 1e-3}
    latencies = roofline("H200", TINY, **slow).tabulate()
    added = verify_s(latencies, 100, True, 0, 1) - verify_s(plain, 100, True, 0, 1)
    assert added == pytest.approx(2 * 3e-6 + 4 * 5e-6, rel=1e-9)
    assert eager_s(latencies, 100) == pytest.approx(2e-3), "launching two layers eagerly takes longer than running them"
    layer = 64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 3 * 64 * 256
    sent = 2 * (2 - 1) / 2 * 1 * 64 * 2
    one = (2 * (2 * layer + 64 * 1000) / 2) / 4.8e12 + 2 * 2 * sent / 450e9
    assert verify_s(plain, 1, True, 0, 1) == pytest.approx(one, rel=1e-12)
    busy = roofline("H200", TINY, **{**IDEAL, "activation_passes": 10.0}).tabulate()
    read = 2 * (2 * layer + 64 * 1000) + 2 * 64 * 10 * 2
    assert verify_s(busy, 1, True, 0, 1) == pytest.approx(read / 4.8e12, rel=1e-12)


def test_a_mesh_of_gpus_uses_only_the_links_within_the_group() -> None:
    assert GPUS["MI350X"].group_bytes_per_s(8) == pytest.approx(7 * 76.8e9)
    assert GPUS["MI350X"].group_bytes_per_s(4) == pytest.approx(3 * 76.8e9)
    assert GPUS["B300"].group_bytes_per_s(4) == GPUS["B300"].group_bytes_per_s(8)


def test_context_reads_the_kv_of_every_token() -> None:
    cost = roofline("H200", TINY, **IDEAL).tabulate()
    kv_bytes = 2 * 2 * 2 * 16 * 2
    step_s = verify_s(cost, 64, True, 10**6, 64) - verify_s(cost, 64, True, 0, 64)
    assert step_s == pytest.approx(10**6 * kv_bytes / 4.8e12, rel=1e-9)
    pairs_s = prefill_s(cost, 64, 1e6) - prefill_s(cost, 64, 0.0)
    assert pairs_s == pytest.approx(1e6 * 2 * 4 * 4 * 16 / 989.4e12, rel=1e-9)


@pytest.mark.parametrize(("gpu", "rate"), [("A100", 312e12), ("H200", 989.4e12), ("B200", 9000e12)])
def test_weights_in_a_format_that_the_gpu_lacks_are_multiplied_in_bf16(gpu: str, rate: float) -> None:
    """FP4 weights: half a byte to read on every GPU, four times the rate on a GPU that multiplies FP4."""
    stored = {"format": "fp4", "bytes_per_weight": 0.5625}
    cost = roofline(gpu, {**TINY, **stored}, **IDEAL).tabulate()
    layers = 2 * (64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 3 * 64 * 256)
    head = 64 * 1000
    read_s = (layers * 0.5625 + head * 2) / GPUS[gpu].bytes_per_s  # type: ignore[index]
    assert verify_s(cost, 1, True, 0, 1) == pytest.approx(read_s, rel=1e-12)
    bf16 = GPUS[gpu].flops_per_s["bf16"]  # type: ignore[index]
    many_s = 2 * 8192 * (layers / rate + head / bf16)
    assert verify_s(cost, 8192, True, 0, 1) == pytest.approx(many_s, rel=1e-12)


@pytest.mark.parametrize(("gpu", "rate"), [("H200", "bf16"), ("B300", "fp8"), ("MI300X", "bf16"), ("MI350X", "fp8")])
def test_fp4_weights_with_fp8_activations_need_a_gpu_that_has_fp4(gpu: str, rate: str) -> None:
    found = GPUS[gpu]  # type: ignore[index]
    assert found.rate("fp4_fp8") == found.flops_per_s[rate]  # type: ignore[index]


def test_draft_and_injection_closed_forms() -> None:
    draft = {"layers": 1, "block": 4, "hidden_states": 3, "markov_rank": 8}
    model = roofline("H200", TINY, **{**IDEAL, "draft": draft, "markov_s": 7e-6})
    cost = model.tabulate()
    layer = 64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 3 * 64 * 256
    backbone = 2 * (layer + 64 * 1000)
    step = 2 * 8 * 1000 + 2 * 4 * 1000
    assert draft_s(cost, 1) == pytest.approx((backbone + 4 * step) / 4.8e12 + 4 * 7e-6, rel=1e-12)
    # One serial step a position; the backbone reads its weights once for any of them.
    for gamma in (1, 2):
        wanted = (backbone + gamma * step) / 4.8e12 + gamma * 7e-6
        assert draft_s(model.tabulate(gamma), 1) == pytest.approx(wanted, rel=1e-12)
    assert (model.tabulate(4) == cost).all()
    assert inject_s(cost, 10) == pytest.approx(10 * max(2 * 3 * 64 * 2 / 4.8e12, 2 * 3 * 64 * 64 / 989.4e12), rel=1e-12)


def test_experts_touched_are_those_of_random_routing() -> None:
    shape = ModelShape.model_validate(V4_FLASH)
    rng = np.random.default_rng(1)
    for tokens in (1, 8, 64, 300):
        touched = [
            len(np.unique(np.concatenate([rng.choice(256, 6, replace=False) for _ in range(tokens)])))
            for _ in range(40)
        ]
        share = shape.touched_share(np.array([float(tokens)]))[0]
        assert share == pytest.approx(float(np.mean(touched)) / 256, rel=0.03)


def test_expert_bytes_grow_with_the_tokens_and_then_stop() -> None:
    experts = {
        "kind": "moe",
        "intermediate": 128,
        "experts": 16,
        "active": 2,
        "format": "bf16",
        "bytes_per_weight": 2.0,
    }
    cost = roofline("H200", {**TINY, "feed_forward": experts}, **IDEAL).tabulate()
    attention = 64 * (4 + 2 * 2) * 16 + 4 * 16 * 64 + 64 * 16
    fixed = 2 * (2 * attention + 64 * 1000)
    routed = 2 * 2 * 16 * 3 * 64 * 128
    for tokens in (1, 2, 10):
        read = fixed + routed * (1 - (1 - 2 / 16) ** tokens)
        assert verify_s(cost, tokens, True, 0, 1) == pytest.approx(read / 4.8e12, rel=1e-12)
    assert verify_s(cost, 100, True, 0, 1) == pytest.approx((fixed + routed) / 4.8e12, rel=1e-3)


@pytest.mark.parametrize("gpu", sorted(GPUS))
@pytest.mark.parametrize("tp", [1, 8])
def test_roofline_never_falls_with_tokens_or_requests(gpu: str, tp: int) -> None:
    cost = roofline(gpu, QWEN3["Qwen3-8B"], tp=tp, draft=QWEN3_DRAFT).tabulate()[0]
    for curve in (cost["captured_s"], cost["draft_s"], cost["eager_at_s"][: cost["eager_points"]]):
        assert np.isfinite(curve).all() and (np.diff(curve) >= 0).all() and curve[0] > 0
    assert np.isfinite(cost["prefill_at_s"]).all()


# --- roofline: published sizes


def test_qwen3_8b_has_its_published_size() -> None:
    shape = ModelShape.model_validate(QWEN3["Qwen3-8B"])
    assert shape.weight_bytes() / 2 == pytest.approx(8.19e9, rel=0.002), "8.2B parameters"
    assert shape.kv_bytes_per_token(1) == 36 * 2 * 8 * 128 * 2
    assert shape.kv_bytes_per_token(16) == 2 * shape.kv_bytes_per_token(1), "8 KV heads on 16 GPUs are stored twice"


def test_deepseek_v3_latents_have_their_published_size() -> None:
    v3 = {
        **TINY,
        "layers": 61,
        "hidden": 7168,
        "attention": {
            "kind": "mla",
            "heads": 128,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "nope_dim": 128,
            "rope_dim": 64,
            "value_dim": 128,
        },
    }
    shape = ModelShape.model_validate(v3)
    assert shape.kv_bytes_per_token(1) == 70272, "70.27 KB a token in bf16 (DeepSeek-V3 hardware paper, Table 1)"
    assert shape.kv_bytes_per_token(8) == 8 * 70272, "every GPU stores the latents whole"
    assert shape.attention[0].parameters(7168) == pytest.approx(187.1e6, rel=0.001)


def test_deepseek_v4_flash_has_its_published_size() -> None:
    shape, draft = ModelShape.model_validate(V4_FLASH), DraftShape.model_validate(V4_FLASH_DRAFT)
    assert shape.parameters() == pytest.approx(284e9, rel=0.005)
    assert shape.active_parameters() - shape.hidden * shape.vocab == pytest.approx(13e9, rel=0.03)
    # The checkpoint with its three draft layers is 167 GB; 890 bytes a token are "roughly 1/4" of V4-Flash's KV.
    assert shape.weight_bytes() + draft.weight_bytes(shape) == pytest.approx(167e9, rel=0.01)
    assert shape.kv_bytes_per_token(1) == pytest.approx(4 * 890, rel=0.1)
    assert draft.kv_bytes_per_token(shape, 4) == 0.0


# --- roofline: published step times


@pytest.mark.parametrize(("model", "concurrency"), [(m, c) for m in QWEN3 for c in (48, 64)])
def test_h200_qwen3_verify_all_steps(model: str, concurrency: int) -> None:
    """One pair of parameters for three models; fitted to the 4B and the 14B, it predicts the 8B."""
    with published("serving.csv").open() as file:
        row = next(
            r
            for r in csv.DictReader(file)
            if (r["model"], r["hardware"], r["concurrency"]) == (model, "H200", str(concurrency))
        )
    step_s = concurrency * float(row["accept_length"]) / float(row["throughput_tok_s"])
    fitted = {"flops_efficiency": 0.56, "overhead_s": 8.9e-3, "bandwidth_efficiency": 0.8, "layer_s": 20e-6}
    cost = roofline("H200", QWEN3[model], draft=QWEN3_DRAFT, **fitted).tabulate()
    tokens, context = 8 * concurrency, 1000 * concurrency
    predicted = (
        cost[0]["overhead_s"]
        + draft_s(cost, concurrency)
        + verify_s(cost, tokens, True, context, concurrency)
        + inject_s(cost, tokens)
    )
    assert predicted == pytest.approx(step_s, rel=0.06)


def test_v4_flash_shape_reproduces_the_b300_curve() -> None:
    """Three factors fitted to the verify curve; the draft curve is a prediction."""
    model = roofline(
        "B300",
        V4_FLASH,
        tp=4,
        draft=V4_FLASH_DRAFT,
        layer_s=71e-6,
        bandwidth_efficiency=0.85,
        flops_efficiency=0.09,
    )
    cost = model.tabulate()[0]
    verify, draft = medians("verify", "cudagraph"), medians("draft", "cudagraph")
    off = np.array(
        [verify_s(model.tabulate(), tokens, True, 0, tokens) / seconds - 1 for tokens, seconds in verify.items()]
    )
    assert np.sqrt((off**2).mean()) < 0.09 and np.abs(off).max() < 0.20
    off = np.array([cost["draft_s"][requests] / seconds - 1 for requests, seconds in draft.items()])
    assert np.abs(off).max() < 0.20
    curve = CurveCost.model_validate(B300)
    assert curve.context_s_per_token == pytest.approx(model.context_s_per_token(), rel=0.05)
    assert curve.prefill_context_s == pytest.approx(model.prefill_context_s(), rel=0.05)
    assert curve.inject_s_per_token == pytest.approx(cost["inject_s_per_token"], rel=0.05)


def test_mi350x_v4_flash_reproduces_the_published_throughput() -> None:
    """Two efficiencies and a layer latency against 14 throughputs, at an accepted length fitted with them.

    The source gives neither the tensor parallelism (4 assumed, as on the B300) nor the prompts (ShareGPT turns, 220
    tokens assumed); vLLM puts prompt chunks into the decode steps.
    """
    prompt, output, accepted = 220, 512, 3.9
    cost = roofline(
        "MI350X",
        V4_FLASH,
        tp=4,
        draft=V4_FLASH_DRAFT,
        layer_s=155e-6,
        eager_layer_s=1e-3,
        bandwidth_efficiency=0.6,
        flops_efficiency=0.045,
    ).tabulate()
    with published("serving.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["hardware"] == "MI350X"]
    assert len(rows) == 14
    off = []
    for row in rows:
        clients, fixed = int(row["concurrency"]), row["arm"] == "fixed"
        gain = accepted if fixed else 1.0
        verify = clients * (8 if fixed else 1)
        tokens = verify + round(clients * gain / output * prompt)
        step_s = cost[0]["overhead_s"] + verify_s(cost, tokens, verify <= 1024, clients * (prompt + 256), clients)
        if fixed:
            step_s += draft_s(cost, clients) + inject_s(cost, tokens)
        off.append(clients * gain / step_s / float(row["throughput_tok_s"]) - 1)
    assert np.sqrt(np.mean(np.square(off))) < 0.08 and np.abs(off).max() < 0.19


# --- bad input

CURVE = {
    "captured": {"tokens": [1, 8, 64], "seconds": [0.01, 0.011, 0.02]},
    "draft": {"requests": [1, 8], "seconds": [0.001, 0.002]},
}


def spoiled(part: str, field: str, value: Any) -> dict[str, Any]:
    return {"kind": "curve", "curve": {**CURVE, part: {**CURVE[part], field: value}}}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "guess"}, "'guess'", "'table', 'curve', 'roofline'"),
    ({"kind": "curve", "curve": CURVE, "overhead": 1.0}, "curve.overhead", "unknown field"),
    ({"kind": "curve"}, "curve.curve", "missing; add the field"),
    ({"kind": "curve", "curve": "h100.csv"}, "curve.curve", "choose one of b300_v4flash_curve.csv"),
    (spoiled("captured", "tokens", [1, 64, 8]), "captured.tokens", "8 follows 64; sort the measurements"),
    (spoiled("captured", "tokens", [1, 8, 8]), "captured.tokens", "8 follows 8; sort the measurements"),
    (spoiled("captured", "tokens", [0, 8, 64]), "captured.tokens.0", "greater than or equal to 1"),
    (spoiled("captured", "seconds", [0.01, 0.02]), "captured", "3 entries but seconds has 2; give one time for each"),
    (spoiled("captured", "seconds", [0.01, float("nan"), 0.02]), "captured.seconds.1", "finite number"),
    (spoiled("captured", "seconds", [0.01, -0.01, 0.02]), "captured.seconds.1", "greater than or equal to 0"),
    (spoiled("draft", "requests", [8, 1]), "draft.requests", "1 follows 8; sort the measurements"),
    (
        {"kind": "curve", "curve": CURVE, "profiled_context": 10**6, "context_s_per_token": 1e-6},
        "curve",
        "more than the 0.01 s of the one-token step that contains it; lower one of the two",
    ),
    (
        {"kind": "curve", "curve": CURVE, "prefill": {"tokens": list(range(1, 100)), "seconds": [0.1] * 99}},
        "prefill.tokens",
        "at most 64 items",
    ),
    ({"kind": "table", "table": "nowhere.json"}, "table.table", "give the path of a JSON file"),
    (
        {
            "kind": "table",
            "table": {"sample_batch_tokens": [8, 4], "sample_steps_per_sec": [9.0, 8.0], "max_batch_tokens": 8},
        },
        "sample_batch_tokens",
        "4 follows 8; sort the probes",
    ),
    ({"kind": "roofline", "gpu": "H100", "model": V4_FLASH, "tp": 0}, "roofline.tp", "greater than or equal to 1"),
    ({"kind": "roofline", "gpu": "V100", "model": TINY}, "roofline.gpu", "'A100', 'L40S'"),
    (
        {"kind": "roofline", "gpu": "H100", "model": "Qwen9"},
        "roofline.model: 'Qwen9'",
        "known are Qwen3-0.6B",
    ),
    (
        {"kind": "roofline", "gpu": "H100", "model": TINY, "bandwidth_efficiency": 1.5},
        "bandwidth_efficiency",
        "less than or equal to 1",
    ),
]


@pytest.mark.parametrize(("model", "field", "remedy"), BAD)
def test_bad_input_is_one_line_with_field_and_remedy(model: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PARSER.validate_python(model)
    line = str(from_validation(caught.value, "scenario.yaml"))
    assert "\n" not in line
    assert field in line and remedy in line


def test_table_file_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "sps.json").write_text("tokens,rate\n1,2\n")
    with pytest.raises(ValidationError, match=r"not JSON .* give a table as SGLang's profiler writes it"):
        PARSER.validate_python({"kind": "table", "table": "sps.json"}, context={"base": tmp_path})


def test_schema_allows_names_in_place_of_measurements() -> None:
    schema = PARSER.json_schema()["$defs"]
    assert {"type": "string"} in schema["CurveCost"]["properties"]["curve"]["anyOf"]
    assert {"type": "string"} in schema["TableCost"]["properties"]["table"]["anyOf"]


def test_every_member_tabulates_one_record() -> None:
    table = {"sample_batch_tokens": [1], "sample_steps_per_sec": [100.0], "max_batch_tokens": 1}
    members: list[dict[str, Any]] = [
        B300,
        {"kind": "table", "table": table},
        {"kind": "roofline", "gpu": "H200", "model": TINY},
    ]
    for member in members:
        cost = tabulated(member)
        assert cost.shape == (1,) and cost.dtype == COST
        assert all(np.isfinite(cost[name]).all() for name in COST.names or ())


# --- overheads and experts


def test_a_server_without_speculation_may_have_its_own_overhead() -> None:
    both = {"overhead_s": 0.004, "request_s": 1e-5, "plain": {"overhead_s": 0.001, "request_s": 3e-5}}
    cost = tabulated({**B300, **both})
    assert host_s(cost, 100, True) == pytest.approx(0.005)
    assert host_s(cost, 100, False) == pytest.approx(0.004)
    alike = tabulated({**B300, "overhead_s": 0.004, "request_s": 1e-5})
    assert host_s(alike, 100, False) == host_s(alike, 100, True) == pytest.approx(0.005)
    assert host_s(live(cost, 0.002, 1.0), 0, False) == pytest.approx(0.003)


def test_a_profile_has_the_overhead_of_requests_in_its_alpha() -> None:
    cost = tabulated({**B300, "overhead_s": 0.001, "request_s": 2e-5})
    times = sps_additive(cost, 512, 1024).step_times()
    for requests, tokens in ((8, 64), (256, 1024)):
        wanted = (
            0.001 + 2e-5 * requests + draft_s(cost, requests) + verify_s(cost, tokens, True, requests * 8192, requests)
        )
        assert times.requests_s[requests] + times.tokens_s[tokens] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("novelty", [1.0, 0.25])
def test_experts_are_read_by_distinct_tokens_and_only_in_graphs(novelty: float) -> None:
    bare = tabulated(B300)
    cost = tabulated({**B300, "experts": {"seconds": 0.008, "share": 6 / 256}, "draft_novelty": novelty})
    for requests, tokens in ((1, 1), (16, 128), (64, 64)):
        more_s = verify_s(cost, tokens, True, 10**6, requests) - verify_s(bare, tokens, True, 10**6, requests)
        distinct = requests + novelty * (tokens - requests)
        assert more_s == pytest.approx(0.008 * (1 - (250 / 256) ** distinct), rel=1e-9)
    assert verify_s(cost, 2048, False, 10**6, 256) == verify_s(bare, 2048, False, 10**6, 256)
    slower = live(cost, 0.0, 1.5)
    assert verify_s(slower, 128, True, 10**6, 16) == pytest.approx(1.5 * verify_s(cost, 128, True, 10**6, 16))


@pytest.mark.parametrize(
    "fields", [B300, {"kind": "roofline", "gpu": "H200", "model": QWEN3["Qwen3-8B"]}], ids=["curve", "roofline"]
)
def test_a_profile_knows_eager_steps_and_rests(fields: dict[str, Any]) -> None:
    cost = tabulated({**fields, "overhead_s": 0.001, "request_s": 2e-5})
    table = sps_additive(cost, 512, 4096)
    times = table.step_times()
    assert times.eager_s is not None
    for tokens in (1, 700, 1024, 1025, 2048, 4000):
        assert times.eager_s[tokens] == pytest.approx(eager_s(cost, tokens), rel=1e-9)
    assert times.rest_s[96] == pytest.approx(host_s(cost, 96, True))
    slower = table.corrected(0.002, 1.5).step_times()
    assert slower.eager_s is not None
    assert slower.eager_s[2048] == pytest.approx(1.5 * times.eager_s[2048])
    assert slower.rest_s[96] == pytest.approx(times.rest_s[96] + 0.002)
