"""Scenarios from a model, GPUs and traffic in a few words, and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from dspark_simulator import scenario as scenarios
from dspark_simulator.acceptance_model import packaged
from dspark_simulator.acceptance_prior import prior
from dspark_simulator.evidence import fit_acceptance
from dspark_simulator.model_on_gpus import ModelOnGpus
from dspark_simulator.new_scenario import Traffic, new_scenario
from dspark_simulator.scenario import Scenario, parse
from dspark_simulator.scenario_file import to_yaml
from sglang_dspark.errors import InputError
from sglang_dspark.shapes.gpus import GPUS
from sglang_dspark.shapes.known import known
from sglang_dspark.shapes.kv_pool import default_flags

DATA = Path(__file__).parents[1] / "data"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
}
DRAFT = {
    "architectures": ["Qwen3DSparkModel"],
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "num_hidden_layers": 2,
    "block_size": 4,
    "dflash_config": {"mask_token_id": 151669, "target_layer_ids": [1, 9, 17]},
    "markov_rank": 64,
    "markov_head_type": "vanilla",
}


def on(**fields: Any) -> ModelOnGpus:
    return ModelOnGpus.model_validate({"model": "Qwen3-8B", "gpu": "H200", **fields})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a config and weights, and a draft beside it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").touch()
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "config.json").write_text(json.dumps(DRAFT))
    return folder


class TestModels:
    def test_a_known_model_has_the_pool_of_the_packaged_scenario(self) -> None:
        packaged, made = scenarios.load("h200-qwen3-8b"), new_scenario(on(), Traffic())
        # The packaged one states the same flags and was written by hand.
        assert made.memory.kv_tokens == packaged.memory.kv_tokens
        assert made.memory.kv_tokens_without_draft == packaged.memory.kv_tokens_without_draft
        assert made.cost == packaged.cost.model_copy(update={"kind": "roofline"})
        assert made.server.capture_requests == packaged.server.capture_requests
        assert made.server.chunked_prefill_size == packaged.server.chunked_prefill_size

    def test_a_checkpoint_is_served_from_its_folder_with_its_draft(self, checkpoint: Path) -> None:
        (checkpoint.parent / "draft" / "model.safetensors").touch()
        made = new_scenario(on(model=str(checkpoint), draft=checkpoint.parent / "draft"), Traffic(rate=1))
        assert (made.model, made.drafter_gamma, made.server.gamma) == ("mine", 4, 4)
        assert made.checkpoints() == (str(checkpoint), str(checkpoint.parent / "draft"))
        computed = made.cost.computed_from()
        assert computed is not None and computed.draft is not None
        assert (computed.draft.layers, computed.draft.hidden_states, computed.draft.markov_rank) == (2, 3, 64)
        shapes = known("Qwen3-8B")
        assert shapes is not None and computed.model.parameters() == shapes.model.parameters()

    def test_a_config_without_weights_has_no_path(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").unlink()
        made = new_scenario(on(model=None, config=checkpoint / "config.json"), Traffic())
        assert made.model == "mine" and made.checkpoints().model is None
        assert "No DSpark draft of mine is known" in made.description
        named = new_scenario(on(model="me/tuned", config=checkpoint / "config.json"), Traffic())
        assert named.model == "me/tuned" and named.checkpoints().model == "me/tuned"

    def test_a_config_of_another_model_is_refused(self, checkpoint: Path) -> None:
        with pytest.raises(InputError, match="is not Qwen3-14B"):
            new_scenario(on(model="Qwen3-14B", config=checkpoint), Traffic())
        assert new_scenario(on(model="Qwen/Qwen3-8B", config=checkpoint), Traffic()).model_path == "Qwen/Qwen3-8B"

    def test_a_draft_in_the_checkpoint_needs_no_path(self) -> None:
        made = new_scenario(on(model="DeepSeek-V4-Flash", gpu="B200", tp=4), Traffic())
        assert made.checkpoints().bundled and made.drafter_gamma == 5
        # The first release has no draft inside.
        assert made.checkpoints().model == "deepseek-ai/DeepSeek-V4-Flash-0731"
        assert scenarios.load("b300-v4flash").checkpoints() == made.checkpoints()

    def test_a_published_draft_that_sglang_cannot_load_is_named(self) -> None:
        assert "cannot load this draft" in new_scenario(on(model="gemma-4-12B-it"), Traffic()).description
        assert "cannot load" not in new_scenario(on(), Traffic()).description

    def test_no_more_than_the_known_positions_are_drafted(self, checkpoint: Path) -> None:
        (checkpoint.parent / "draft" / "config.json").write_text(json.dumps(DRAFT | {"block_size": 12}))
        made = new_scenario(on(model=str(checkpoint), draft=checkpoint.parent / "draft"), Traffic())
        assert made.server.gamma == made.drafter_gamma == 7
        assert "has a block of 12" in made.description

    def test_a_draft_without_a_head_is_named(self, checkpoint: Path) -> None:
        (checkpoint.parent / "draft" / "config.json").write_text(json.dumps(DRAFT | {"enable_confidence_head": False}))
        made = new_scenario(on(model=str(checkpoint), draft=checkpoint.parent / "draft"), Traffic())
        assert "no confidence head" in made.description

    def test_the_cache_has_the_stated_type(self) -> None:
        half, whole = new_scenario(on(kv_cache_dtype="fp8"), Traffic()), new_scenario(on(), Traffic())
        assert half.kv_cache_dtype == "fp8"
        # A draft's KV follows the flag, as SGLang's does.
        assert half.memory.kv_tokens == pytest.approx(2 * whole.memory.kv_tokens, rel=1e-5)
        assert half.memory.kv_tokens_without_draft == pytest.approx(2 * whole.memory.kv_tokens_without_draft, rel=1e-5)

    def test_a_draft_of_ones_own_has_the_stated_type(self, checkpoint: Path) -> None:
        def pool(dtype: str) -> int:
            fields = {"model": str(checkpoint), "draft": checkpoint.parent / "draft", "kv_cache_dtype": dtype}
            return new_scenario(on(**fields), Traffic()).memory.kv_tokens

        assert pool("fp8") == pytest.approx(2 * pool("bf16"), rel=1e-5)

    def test_a_stated_share_of_the_memory_is_that_of_the_server(self) -> None:
        assert new_scenario(on(), Traffic()).mem_fraction_static is None
        small = new_scenario(on(mem_fraction=0.6), Traffic())
        assert small.mem_fraction_static == 0.6
        assert small.memory.kv_tokens < 0.7 * new_scenario(on(), Traffic()).memory.kv_tokens

    def test_a_draft_of_ones_own_has_another_ones_acceptance(self, checkpoint: Path) -> None:
        own = new_scenario(on(draft=checkpoint.parent / "draft"), Traffic())
        assert "of another drafter of this model is assumed" in own.description
        # A draft without weights is no path for SGLang.
        assert own.draft_path is None
        assert "published for this model's drafter" in new_scenario(on(), Traffic()).description

    def test_states_limit_the_running_requests(self) -> None:
        made = new_scenario(on(model="Kimi-Linear-48B-A3B-Instruct"), Traffic())
        assert made.server.max_running_requests < 48
        assert f"At most {made.server.max_running_requests} requests run" in made.description

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"kv_cache_dtype": "fp4", "gpu": "B200"}, "not under DSPARK; give fp8"),
            ({"tp": 3}, "tp: 3 does not divide .* give one of 1, 2, 4, 8, 16, 32$"),
            ({"config": Path(__file__).parents[1] / "shapes"}, "cannot be read"),
            ({"model": "Qwen3-9B"}, "did you mean"),
            ({"model": "deepseek-ai/DeepSeek-V4-Pro"}, "give tp"),
            ({"draft": Path("nowhere")}, "nowhere"),
        ],
    )
    def test_what_cannot_be_served_is_refused(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            new_scenario(on(**fields), Traffic())


class TestTraffic:
    def test_what_was_not_stated_is_named(self) -> None:
        bare = new_scenario(on(), Traffic())
        assert "assumed: prompts of 1000 tokens" in bare.description and "TPOT of 0.05 s" in bare.description
        stated = new_scenario(on(), Traffic(isl=10, osl=20, rate=3, ttft_s=2, tpot_s=0.1))
        assert "assumed:" not in stated.description
        (requests,) = stated.workload.classes
        chunk = next(stated.workload.chunks(0))
        assert set(chunk["prompt"]) == {10} and set(chunk["output"]) == {20}
        assert (requests.slo.ttft_s, requests.slo.tpot_s, stated.workload.rate_per_s) == (2, 0.1, 3)

    def test_lengths_and_a_trace_exclude_each_other(self) -> None:
        with pytest.raises(ValueError, match="isl is given with a trace"):
            Traffic(trace=DATA / "azure_llm_2023_conv.csv", isl=5)

    def test_a_trace_keeps_its_lengths_and_takes_a_rate(self) -> None:
        trace = DATA / "azure_llm_2023_conv.csv"
        made = new_scenario(on(), Traffic(trace=trace, rate=7.5))
        assert made.workload.rate_per_s == pytest.approx(7.5)
        first = next(made.workload.chunks(0))[:2]
        assert first["prompt"].tolist() == [374, 396] and first["output"].tolist() == [44, 109]
        assert "prompts of" not in made.description and "TTFT of 1 s" in made.description

    def test_a_class_column_makes_classes(self, tmp_path: Path) -> None:
        from dspark_simulator.workloads.traces import TraceSettings

        table = tmp_path / "log.csv"
        table.write_text("ts,in,out,kind\n0,5,6,a\n1,7,8,b\n2,9,10,a\n")
        columns = {"arrival": "ts", "prompt": "in", "output": "out", "class": "kind"}
        made = new_scenario(on(), Traffic(trace=table, reading=TraceSettings(columns=columns)))
        assert [klass.name for klass in made.workload.classes] == ["a", "b"]


class TestPriors:
    def test_the_published_lengths_are_reproduced(self) -> None:
        table = pd.read_csv(DATA / "dspark_paper_table1_accepted_length.csv").query("drafter == 'DSpark'")
        for row in table[table.dataset.isin(["GSM8K", "LiveCodeBench", "Arena-Hard-v2"])].itertuples():
            target = row.target.replace("Gemma4", "gemma-4")
            logits = prior(f"someone/{target}-it", {row.dataset.lower(): 2.0}).logits
            length = fit_acceptance.accepted_length(packaged().shifted(logits), row.dataset)
            assert length == pytest.approx(row.accepted_length_incl_bonus, abs=0.01), row

    def test_domains_weigh_by_their_share(self) -> None:
        code, chat = (prior("Qwen3-8B", {domain: 1.0}).logits for domain in ("livecodebench", "arena-hard-v2"))
        mixed = prior("Qwen3-8B", {"livecodebench": 3.0, "arena-hard-v2": 1.0})
        assert mixed.logits == pytest.approx(0.75 * code + 0.25 * chat) and code != chat

    def test_the_packaged_scenarios_rest_on_the_same(self) -> None:
        for name in ("b300-v4flash", "mi350x-v4flash"):
            scenario = scenarios.load(name)
            assert prior(scenario.model, {"mt-bench": 1.0}).logits == scenario.drafter_quality

    def test_another_model_is_assumed_to_have_the_papers(self) -> None:
        other = prior("openai/gpt-oss-20b", {"mt-bench": 1.0})
        assert other.logits == 0.0 and "none is published" in other.because
        with pytest.raises(InputError, match="use one of gsm8k"):
            prior("Qwen3-8B", {"poems": 1.0})


class TestFile:
    @pytest.mark.parametrize("name", scenarios.names())
    def test_a_packaged_scenario_reads_back(self, name: str) -> None:
        self.same(scenarios.load(name))

    @pytest.mark.parametrize("traffic", [Traffic(), Traffic(rate=2.5), Traffic(trace=DATA / "azure_llm_2023_code.csv")])
    def test_a_new_scenario_reads_back(self, traffic: Traffic) -> None:
        self.same(new_scenario(on(model="DeepSeek-V4-Flash", gpu="GB200", tp=4), traffic))

    def test_defaults_that_follow_other_fields_still_do(self) -> None:
        made = new_scenario(on(), Traffic())
        read = parse(to_yaml(made), "file", Path.cwd())
        # Without speculation SGLang has no limit of 48; a file that stated 48 would keep it.
        assert made.server.without_speculation().max_running_requests == 1024
        assert read.server.without_speculation() == made.server.without_speculation()

    def test_every_part_is_explained(self) -> None:
        lines = [line.strip() for line in to_yaml(new_scenario(on(), Traffic(rate=1))).splitlines()]
        for field in ("gpus: 1", "gamma: 7", "tp: 1", "kv_tokens: 602555", "overhead_s: [0.0, 0.003]", "loads: [1.0]"):
            assert lines[lines.index(field) - 1].startswith("# "), field

    def same(self, scenario: Scenario) -> None:
        text = to_yaml(scenario)
        assert max(map(len, text.splitlines())) < 200
        read = parse(text, "file", Path("/nowhere"))
        assert read == scenario
        assert set(yaml.safe_load(text)) <= set(Scenario.model_fields)


@pytest.mark.parametrize(
    ("gpu", "tp", "chunk", "captured"),
    [
        ("L40S", 1, 4096, 32),
        ("L40S", 4, 4096, 160),
        ("H100", 2, 8192, 256),
        ("H200", 8, 8192, 512),
        ("B200", 1, 16384, 512),
    ],
)
def test_default_flags_follow_the_memory(gpu: str, tp: int, chunk: int, captured: int) -> None:
    assert default_flags(GPUS[gpu], tp) == (chunk, captured)
