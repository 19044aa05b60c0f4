"""SGLang flags of a simulated server, and the simulated server of such flags."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspark_simulator.scenario import load
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.planning.launch_script import launch
from dspark_tuning.planning.plan import Plan
from dspark_tuning.search import named_arms
from dspark_tuning.search.server_flags import environment, fields, flags
from sglang_dspark.errors import InputError
from tests.policy.test_artifact import ARTIFACT

COUNTS = st.integers(1, 64)
LISTS = st.lists(st.integers(1, 64), min_size=1, max_size=4).map(tuple)
SERVERS = st.builds(
    Server,
    gamma=st.integers(1, 7),
    max_running_requests=COUNTS,
    chunked_prefill_size=COUNTS,
    max_prefill_tokens=COUNTS,
    cuda_graph_bs_decode=st.none() | LISTS,
    min_free_slots_delay=st.none() | COUNTS,
    prefill_decode_interval=st.integers(0, 8),
    prefill_decode_interval_min_bs=st.integers(0, 8),
    prefill_max_requests=st.none() | COUNTS,
    max_queued_requests=st.none() | COUNTS,
    verify_mode=st.sampled_from(("static", "cap-accept", "compact")),
    confidence_lag_steps=st.sampled_from((1, 2)),
)


@given(SERVERS, SERVERS)
def test_flags_describe_a_server_whatever_another_had(server: Server, other: Server) -> None:
    said = fields(flags(server) | environment(server)) | {"gamma": server.gamma}
    read = Server.model_validate(other.model_dump() | said)
    captured = {"capture_requests": read.capture_requests}
    assert read == server.model_copy(update=captured)
    assert read.tiers().tolist() == server.tiers().tolist()


def test_only_flags_that_differ_from_sglangs_defaults_are_given() -> None:
    usual = {
        "--speculative-algorithm",
        "--speculative-dspark-block-size",
        "--max-running-requests",
        "--cuda-graph-max-bs-decode",
        "--chunked-prefill-size",
        "--max-prefill-tokens",
    }
    assert set(flags(Server())) == usual
    more = Server(prefill_decode_interval=8, min_free_slots_delay=1, cuda_graph_bs_decode=(1, 8))
    given = flags(more)
    assert set(given) - usual == {"--prefill-decode-interval", "--min-free-slots-delay", "--cuda-graph-bs-decode"}
    assert given["--cuda-graph-bs-decode"] == "1 8"
    assert "--cuda-graph-max-bs-decode" not in given


def test_a_policy_is_simulated_under_its_flags_alone(tmp_path: Path) -> None:
    scenario = load("h200-qwen3-8b")
    odd = {"prefill_decode_interval": 4, "min_free_slots_delay": 1, "max_queued_requests": 3}
    odd_scenario = scenario.model_copy(update={"server": scenario.server.model_copy(update=odd)})
    path = tmp_path / "policy.json"
    said = {"--max-running-requests": "64", "--max-queued-requests": "9", "--cuda-graph-bs-decode": "1 32"}
    path.write_text(ARTIFACT.model_copy(update={"server_flags": said}).model_dump_json())
    server = named_arms.tuned(path, odd_scenario).server
    assert (server.max_running_requests, server.max_queued_requests, server.cuda_graph_bs_decode) == (64, 9, (1, 32))
    assert (server.prefill_decode_interval, server.min_free_slots_delay) == (0, None)


def test_flags_of_sglang_on_another_engine_are_refused_in_one_line(tmp_path: Path) -> None:
    scenario = load("h200-qwen3-8b")
    vllm = scenario.model_copy(update={"server": scenario.server.model_copy(update={"engine": "vllm"})})
    path = tmp_path / "policy.json"
    said = {"--prefill-decode-interval": "8"}
    path.write_text(ARTIFACT.model_copy(update={"server_flags": said}).model_dump_json())
    with pytest.raises(InputError, match="prefill_decode_interval is a flag that vllm does not have"):
        named_arms.tuned(path, vllm)


@pytest.mark.parametrize("speculative", [True, False])
def test_a_plan_is_started_with_the_flags_that_it_was_simulated_with(speculative: bool) -> None:
    scenario = load("h200-qwen3-8b")
    server = Server(speculative=speculative, cuda_graph_bs_decode=(1, 8), prefill_decode_interval=4)
    start = launch(Plan("H200", "any", scenario, Arm("any", server), 1.0, None, None))
    words = shlex.split(start.split("exec env ")[1])
    assert ("DSPARK" in words) == ("SGLANG_RAGGED_VERIFY_MODE=static" in words) == speculative
    at = words.index("--cuda-graph-bs-decode")
    assert words[at + 1 : at + 3] == ["1", "8"]
    assert words[words.index("--prefill-decode-interval") + 1] == "4"
    assert words[words.index("--max-running-requests") + 1] == str(server.max_running_requests)
