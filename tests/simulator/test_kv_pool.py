"""KV pool memory taken by server flags: computed by hand, monotone, and none at the stated flags."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark_simulator.deployment import Memory
from dspark_simulator.scenario import Scenario, load, names
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Closed
from sglang_dspark.errors import InputError
from sglang_dspark.shapes.gpus import GPUS
from sglang_dspark.shapes.known import known
from sglang_dspark.shapes.kv_pool import MIB, FlagCosts, PoolFlags, flag_costs, kv_capacity_tokens
from tests.simulator.deployment import a_class, a_scenario

COSTS = FlagCosts(token_bytes=100_000, plain_token_bytes=80_000, slot_bytes=1e6, slot_position_bytes=2e5)
FLAGS = {"max_running_requests": 99, "capture_requests": 64, "chunked_prefill_size": 8192, "gamma": 4}
STATED = Server.model_validate(FLAGS)
MEMORY = Memory(kv_tokens=500_000, kv_tokens_without_draft=700_000, costs=COSTS).known(STATED, None)


def pool(**flags: Any) -> int:
    return MEMORY.tokens(Server.model_validate(FLAGS | flags))


def test_flags_by_hand() -> None:
    reserve = 640 * MIB + 1.5 * MIB * 8192 + 2 * MIB * 64
    assert reserve > 10240 * MIB
    flags = STATED.pool_flags()
    assert COSTS.reserve_bytes(flags) == reserve
    assert COSTS.slots_bytes(flags, speculative=True) == 100 * (1e6 + 5 * 2e5)
    assert COSTS.slots_bytes(flags, speculative=False) == 100 * 1e6
    assert pool(chunked_prefill_size=16384) == 500_000 - int(1.5 * MIB * 8192 / 100_000)
    assert pool(capture_requests=32) == 500_000 + int(2 * MIB * 32 / 100_000)
    assert pool(max_running_requests=199) == 500_000 - int((2 * MIB * 0 + 100 * 2e6) / 100_000)
    assert pool(gamma=2) == 500_000 + int(100 * 2 * 2e5 / 100_000)
    assert pool(speculative=False, max_running_requests=199) == 700_000 - int(100 * 1e6 / 80_000)


def test_a_small_chunk_costs_the_least_reserve() -> None:
    """A reserve of at least 10 GiB on a large GPU, and of activations for at least 2,048 tokens."""
    kept = 640 * MIB + 1.5 * MIB * 8192 + 2 * MIB * 64 - 10240 * MIB
    for chunk in (1024, 2048, 4096):
        assert pool(chunked_prefill_size=chunk) == 500_000 + int(kept / 100_000)
    small = COSTS.model_copy(update={"least_bytes": 0.0})
    least, same, more = (
        small.reserve_bytes(STATED.pool_flags().model_copy(update={"chunked_prefill_size": chunk}))
        for chunk in (512, 2048, 4096)
    )
    assert least == same == more - 1.5 * MIB * 2048


def test_the_pool_is_the_stated_one_at_the_stated_flags() -> None:
    assert (pool(), pool(speculative=False)) == (500_000, 700_000)
    # Fewer requests than are captured run in graphs of their own number.
    assert pool(capture_requests=99) == pool(capture_requests=512)


@given(
    field=st.sampled_from(["max_running_requests", "capture_requests", "chunked_prefill_size", "gamma"]),
    sizes=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    speculative=st.booleans(),
)
def test_more_of_a_flag_never_leaves_more(field: str, sizes: tuple[int, int], speculative: bool) -> None:
    unit = {"gamma": 1, "chunked_prefill_size": 1024}.get(field, 64)
    small, large = (pool(speculative=speculative, **{field: unit * size}) for size in sorted(sizes))
    assert small >= large


def test_flags_that_leave_no_pool_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"chunked_prefill_size 65536.* captured requests 64 .*take 9\d\.\d GB.*lower"):
        pool(chunked_prefill_size=65536)


def test_vllm_measures_what_it_needs() -> None:
    assert pool(engine="vllm", max_running_requests=512) == 500_000


@pytest.mark.parametrize("name", names())
def test_packaged_pools_are_those_of_the_models_shape(name: str) -> None:
    scenario = load(name)
    shapes, flags = known(scenario.model), scenario.server.pool_flags()
    assert shapes is not None
    gpu = GPUS[scenario.hardware.rsplit("x", 1)[-1]]  # type: ignore[index]
    memory = scenario.memory
    pools = [kv_capacity_tokens(gpu, scenario.gpus, 0.85, shapes.model, draft, flags) for draft in (shapes.draft, None)]
    assert [memory.kv_tokens, memory.kv_tokens_without_draft] == pools
    assert memory.costs == flag_costs(shapes.model, shapes.draft, scenario.gpus)
    assert memory.at == flags and memory.tokens(scenario.server) == memory.kv_tokens


def test_capacity_is_what_weights_and_slots_leave() -> None:
    shapes = known("Qwen3-8B")
    assert shapes is not None
    flags = PoolFlags(max_running_requests=127, captured_requests=64, chunked_prefill_size=8192, gamma=7)
    alone = kv_capacity_tokens(GPUS["H200"], 1, 0.9, shapes.model, None, flags)
    free = 0.9 * 141e9 - shapes.model.weight_bytes() - 128 * 0.5 * MIB
    assert alone == int(free / 147456)
    layers = 5 * (2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 12288)
    draft = 2 * (layers + 5 * 4096**2 + 2 * 256 * 151936)
    both = kv_capacity_tokens(GPUS["H200"], 1, 0.9, shapes.model, shapes.draft, flags)
    assert both == int((free - draft) / (147456 + 5 * 2 * 8 * 128 * 2))
    assert kv_capacity_tokens(GPUS["H200"], 1, 0.1, shapes.model, None, flags) <= 0


def test_a_slot_of_deepseek_v4_flash_by_hand() -> None:
    """SGLang's window pool, state of sparse and pooled layers, and request table, for one GPU."""
    shapes = known("DeepSeek-V4-Flash")
    assert shapes is not None
    costs = flag_costs(shapes.model, shapes.draft, 4)
    state = 4 * (512 + 128) * 4 / 256
    window = {True: (43 * 584 + 21 * 16 * state) * 44 / 43, False: 43 * 584 + 21 * 8 * state}
    pooled = 20 * 128 * 2 * 512 * 4
    table = 4 * 131072
    assert costs.slot_bytes == pytest.approx(table + 5 * (128 + 256) * window[True] + 2 * pooled, rel=1e-12)
    assert costs.plain_slot_bytes == pytest.approx(table + 5 * (128 + 256) * window[False] + pooled, rel=1e-12)
    assert costs.slot_position_bytes == pytest.approx(130 * window[True], rel=1e-12)
    assert costs.base_bytes == 1024 * MIB


def a_deployment(**fields: Any) -> Scenario:
    memory = {"kv_tokens": 20_000, "kv_tokens_without_draft": 20_000, **fields}
    content = a_scenario(Closed(clients=64), a_class(100, 50), requests=200, warmup=64, server=STATED).model_dump()
    return Scenario.model_validate(content | {"memory": memory})


def test_a_run_has_the_pool_of_its_servers_flags() -> None:
    scenario = a_deployment(costs=COSTS.model_dump())
    for server, tokens in ((STATED, 20_000), (STATED.model_copy(update={"max_running_requests": 999}), 2_000)):
        result = simulate(scenario, Arm("a", server))
        used = result.row()["kv_use"]
        assert 0 < used <= 1
        assert scenario.memory.tokens(server) == tokens
    assert used > 0.6, "a pool of 2,000 tokens is full with 64 clients of 100 tokens and more"


def test_a_changed_server_keeps_the_flags_at_which_the_pool_was_stated() -> None:
    scenario = a_deployment(costs=COSTS.model_dump())
    more = STATED.model_copy(update={"max_running_requests": 199})
    changed = scenario.model_copy(update={"server": more})
    for again in (changed, Scenario.model_validate(changed.model_dump())):
        assert again.memory.tokens(more) == 20_000 - 2_000 and again.memory.tokens(STATED) == 20_000


def test_without_shape_and_costs_the_pool_is_that_of_any_flags() -> None:
    scenario = a_deployment()
    assert scenario.memory.costs is None
    assert scenario.memory.tokens(STATED.model_copy(update={"chunked_prefill_size": 10**6})) == 20_000
