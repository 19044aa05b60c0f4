"""Servers that SGLang would end: each backend, model class and GPU, against SGLang's own functions."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_dspark.demo import TARGET
from sglang_dspark.errors import InputError
from sglang_dspark.serving import refusals, serve_check, support, target_class
from sglang_dspark.serving.refusals import BACKENDS_REFUSED, LISTED, PLATFORMS, SERVERS_REFUSED, Built
from tests.serving import flags, upstream_source
from tests.serving.configs import CONFIGS

pytestmark = pytest.mark.usefixtures("environment")

GPUS = ("a100", "l40s", "h100", "b200", "b300", "rtx-pro-6000")
CLASSES = ("qwen3", "v3", "v4", "glm5", "qwen3-next", "kimi", "nemotron-h", "mistral")
NAMES = tuple(name for row in support.BACKENDS for name in row.names)

# What SGLang's functions below cannot show here, since a kernel, a forward pass or a comment does: words at the place.
AT_THE_PLACE = {
    "`fa3` with `--kv-cache-dtype fp8_e5m2`": "FlashAttention3 only supports fp8_e4m3 if using FP8",
    "`fa4` on sm_8x": "paged KV not supported on SM 8.0",
    "`fa4` for MLA on other GPUs than sm_100 and sm_110": "only support Blackwell arch with qv",
    "`fa4` with an FP8 KV cache on other GPUs than sm_100": "FP8 is only supported on SM100",
    "`trtllm_mla` verifying on sm_120": "flashinfer.decode.trtllm_batch_decode_with_kv_cache_mla",
    "`dsa`, `nsa` with FlashMLA's kernels on sm_8x": "SM90 dense decode, the V3.2",
    "`flashmla` for MHA": "model_runner.model_config.kv_lora_rank",
    "`flashmla` verifying on other GPUs than sm_90": "SM90 dense decode",
    "other than `dsv4` for DeepSeek-V4": '{"attention_backend": "dsv4"}',
    "`dsv4` on sm_8x": "SM90 dense decode, the V3.2 / V3.2-no-RoPE / V4 formats",
    "`qsa` for models without Qwen's sparse attention": "QSA sparse attention requires topk_indices",
    "`minicpm_flashattn`, `minicpm_flashinfer`": "does not support speculative decoding (target verify)",
    "`torch_native` verifying, but for the CPU engine of this package": "extend_prefix_lens.shape[0]",
    "`flashinfer`, `trtllm_mha` for K and V of different widths (MiMo-V2)": "paged_kv_t compiles ONE head_dim",
    "other than `fa4`, `triton` for Inkling": 'assert attention_backend in ("fa4", "triton")',
    "other than SGLang lists for gpt-oss and Gemma 4": "Gemma4 only supports",
    "`triton` for LFM2": "does not support triton attention backend",
    "NVIDIA's, AMD's, Intel's and Huawei's on another maker's GPU": "_is_musa",
    "other than `torch_native` on the CPU engine of this package": None,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """SGLang's configurations of the model classes."""
    from sglang.srt.configs.model_config import ModelConfig

    made = {"qwen3": ModelConfig(str(TARGET))}
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(json.dumps(config))
        made[name] = ModelConfig(str(folder))
    return made


def server(model: Any, gpu: str, name: str, **more: Any) -> Any:
    """A server with one attention backend; its draft has one that runs anywhere."""
    from sglang.srt.configs.model_config import AttentionArch

    given = {"attention_backend": name, "speculative_draft_attention_backend": "triton"} | more
    return flags.server(model=model, mla=model.attention_arch == AttentionArch.MLA, platform=flags.gpu(gpu), **given)


class _PastChecksError(Exception):
    """A constructor went past its checks and reads what only a loaded model has."""


class _Runner:
    """SGLang's model runner as far as the checks of its attention backends read it."""

    def __init__(self, model: Any, name: str, mla: bool) -> None:
        self.model_config, self.use_mla_backend = model, mla
        self.device, self.page_size, self.init_new_workspace = "cpu", 256, False
        self.prefill_attention_backend_str = self.decode_attention_backend_str = name
        self.server_args, self.is_draft_worker = None, False

    def __getattr__(self, name: str) -> Any:
        raise _PastChecksError(name)


@pytest.fixture
def sglang_builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str, str], str | None]]:
    """Asks SGLang: resolves the backend's flags, then builds it, as far as a machine without a GPU can.

    The classes that cannot be imported here, and those whose constructors refuse nothing, are stood in for.
    """
    from sglang.srt.arg_groups import attention_hook
    from sglang.srt.layers.attention import attention_registry as registry
    from sglang.srt.model_executor.cuda_graph_config import CudaGraphConfig
    from sglang.srt.runtime_context import override_platform
    from sglang.srt.server_args import ServerArgs

    real = {"dsa_backend", "deepseek_v4_backend"}
    for last in real:
        importlib.import_module(f"{refusals.ATTENTION}.{last}")
    tree = ast.parse(inspect.getsource(registry))
    for node in ast.walk(tree):
        module = getattr(node, "module", None) or ""
        last = module.rpartition(".")[2]
        if isinstance(node, ast.ImportFrom) and last.endswith("backend") and last not in real:
            monkeypatch.setitem(sys.modules, module, _StandIn(module))
    trtllm = sys.modules[f"{refusals.ATTENTION}.deepseek_v4_trtllm_backend"]
    monkeypatch.setattr(trtllm, "create_deepseek_v4_attn_backend", _v4, raising=False)
    deterministic = SimpleNamespace(deterministic=SimpleNamespace(enable_deterministic_inference=False))
    monkeypatch.setattr(f"{refusals.ATTENTION}.dsa_backend.get_exec", lambda: deterministic)
    monkeypatch.setattr(f"{refusals.ATTENTION}.linear.utils.resolve_linear_attn_backends", lambda **given: None)
    monkeypatch.setattr(registry, "get_spec", lambda: SimpleNamespace(speculative_algorithm="DSPARK"))
    monkeypatch.setattr(registry, "get_parallel", lambda: SimpleNamespace(dcp_enabled=False))
    monkeypatch.setattr(registry, "resolved_view", lambda args: args)

    def ask(model: Any, name: str, gpu: str) -> str | None:
        capability = serve_check.GPUS[gpu]
        args = ServerArgs(model_path="/", attention_backend=name, device="cuda", speculative_algorithm="DSPARK")
        args._model_config, args.cuda_graph_config = model, CudaGraphConfig()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(registry, "get_device_capability", lambda: capability)
        monkeypatch.setattr(registry, "attention_backends_of", lambda view: (name, name))
        monkeypatch.setattr("sglang.srt.utils.is_blackwell", lambda: capability[0] in (10, 11, 12))
        runner = _Runner(model, name, server(model, gpu, name).mla)
        with override_platform(**serve_check._facts(capability)):
            try:
                attention_hook.handle_attention_backend_compatibility(args)
                registry.attn_backend_wrapper(runner, registry.ATTENTION_BACKENDS[name](runner))
            except _PastChecksError:
                return None
            except (AssertionError, ValueError, NotImplementedError) as error:
                return str(error) or type(error).__name__
        return None

    yield ask


def _v4(runner: Any) -> Any:
    from sglang.srt.layers.attention.deepseek_v4_backend import DeepseekV4AttnBackend

    return DeepseekV4AttnBackend(runner)


class _StandIn(ModuleType):
    """A module of SGLang whose classes can be made of anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda made, *arguments, **keywords: None})


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("model", CLASSES)
def test_the_table_refuses_what_sglang_refuses(models, sglang_builds, model: str, gpu: str) -> None:
    wrong = []
    for name in NAMES:
        theirs = sglang_builds(models[model], name, gpu)
        described = server(models[model], gpu, name)
        row = refusals.refusal(described, refusals.built(described)[0])
        if theirs is not None and row is None:
            wrong.append(f"{name}: SGLang refuses it: {theirs}")
        elif theirs is None and row is not None and row.name not in AT_THE_PLACE:
            wrong.append(f"{name}: SGLang builds it: {row.name}")
    assert not wrong, wrong


def test_every_row_of_the_table_is_shown_by_sglang_or_at_its_place(models, sglang_builds) -> None:
    shown = set(AT_THE_PLACE)
    for model in CLASSES:
        for gpu in GPUS:
            for name in NAMES:
                described = server(models[model], gpu, name)
                held = refusals.built(described)[0]
                rows = [row.name for row in BACKENDS_REFUSED if row.holds(described, held)]
                if rows and sglang_builds(models[model], name, gpu) is not None:
                    shown.update(rows)
    # One asks for ranks, which have a test of their own.
    assert {row.name for row in BACKENDS_REFUSED} - shown == {"`trtllm_mla` with context parallelism of decoding"}


@pytest.mark.parametrize("row", BACKENDS_REFUSED, ids=lambda row: row.name)
def test_words_are_at_the_place(row: Any) -> None:
    words = AT_THE_PLACE.get(row.name)
    if words is None:
        return
    symbol = row.shown if upstream_source.place(row.shown) else f"{row.shown}.attn_backend_wrapper"
    found = upstream_source.place(symbol)
    assert found is not None
    text = Path(upstream_source.file(found.module)).read_text()
    assert words in text.replace("\n", " ") or words in " ".join(text.split())


def test_models_with_lists_of_backends_have_sglangs() -> None:
    """The literal lists in SGLang's step of model-specific adjustments, by the architectures of their branches."""
    found = upstream_source.place("sglang.srt.arg_groups.model_hook.handle_model_specific_adjustments")
    lists = {
        node.targets[0].id: {element.value for element in node.value.elts}
        for node in ast.walk(found.node)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.List | ast.Tuple)
        and all(isinstance(element, ast.Constant) for element in node.value.elts)
        and getattr(node.targets[0], "id", "") in ("supported_backends", "accepted_backends")
        and "trtllm_mha" in ast.unparse(node.value)
        and "fa4" in ast.unparse(node.value)
    }
    ours = {names[0]: set(backends) for names, backends in LISTED.items()}
    assert ours["GptOssForCausalLM"] == lists["supported_backends"]
    assert ours["Gemma4ForConditionalGeneration"] == lists["accepted_backends"]


def test_backends_of_a_platform_need_its_packages() -> None:
    """What is not NVIDIA's imports what only its maker's platform has; NVIDIA's runs on CUDA only."""
    needs = {"aiter": "aiter", "wave": "wave_lang", "ascend": "torch_npu", "intel_xpu": "flash_mla_prefill"}
    assert set(needs) == {name for fact, names in PLATFORMS.items() if fact != "is_cuda" for name in names}
    for name, package in needs.items():
        row = next(row for row in support.BACKENDS if name in row.names)
        assert package in Path(upstream_source.file(upstream_source.place(row.symbol).module)).read_text()
    assert {name for names in PLATFORMS.values() for name in names} <= set(NAMES)


def test_trtllm_mla_merges_no_ranks(models, sglang_builds, monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.layers.attention import attention_registry as registry

    monkeypatch.setattr(registry, "get_parallel", lambda: SimpleNamespace(dcp_enabled=True))
    assert "decode context parallelism" in sglang_builds(models["v3"], "trtllm_mla", "b200")
    with pytest.raises(InputError, match=r"^--attention-backend: trtllm_mla cannot serve .*; use flashinfer$"):
        refusals.refuse(server(models["v3"], "b200", "trtllm_mla", dcp_size=2, tp_size=2))


# Model, GPU, flags; what the one line says.
LINES: list[tuple[str, str, dict[str, Any], str]] = [
    ("qwen3", "b200", {"attention_backend": "fa3"}, "--attention-backend: fa3 .*create_flash.*; use trtllm_mha$"),
    ("v3", "a100", {"attention_backend": "fa3"}, "--attention-backend: fa3 .*latent.*; use flashinfer$"),
    ("qwen3", "a100", {"attention_backend": "fa4"}, "--attention-backend: fa4 .*paged.*; use fa3$"),
    ("v3", "h100", {"attention_backend": "fa4"}, "--attention-backend: fa4 .*; use fa3$"),
    (
        "v3",
        "h100",
        {"attention_backend": "fa3", "prefill_attention_backend": "trtllm_mla"},
        "--prefill-attention-backend: trtllm_mla .*; use fa3$",
    ),
    (
        "qwen3",
        "h100",
        {"attention_backend": "fa3", "decode_attention_backend": "hpc_ops"},
        "--decode-attention-backend: hpc_ops .*create_hpc_ops_backend.*; use fa3$",
    ),
    ("v4", "a100", {"attention_backend": "dsv4"}, "--attention-backend: dsv4 .*; use another GPU$"),
    (
        "v4",
        "b200",
        {"attention_backend": "dsv4", "prefill_attention_backend": "fa4"},
        "--prefill-attention-backend: fa4 .*; use dsv4$",
    ),
    ("qwen3", "h100", {"attention_backend": "dsv4"}, "--attention-backend: dsv4 .*; use fa3$"),
    ("qwen3-next", "rtx-pro-6000", {"attention_backend": "fa4"}, "--attention-backend: fa4 .*; use trtllm_mha$"),
    ("gpt-oss", "a100", {"attention_backend": "flashinfer"}, "--attention-backend: flashinfer .*; use fa3$"),
    ("mimo", "a100", {"attention_backend": "flashinfer"}, "--attention-backend: flashinfer .*; use fa3$"),
    ("mimo", "b200", {"attention_backend": "trtllm_mha"}, "--attention-backend: trtllm_mha .*; use fa4$"),
    ("qwen3", "h100", {"attention_backend": "torch_native"}, "--attention-backend: torch_native .*; use fa3$"),
    (
        "qwen3",
        "b200",
        {"attention_backend": "trtllm_mha", "speculative_draft_attention_backend": "fa3"},
        "--speculative-draft-attention-backend: fa3 .*; use trtllm_mha$",
    ),
    (
        "v3",
        "h100",
        {"attention_backend": "fa3", "kv_cache_dtype": "fp8_e5m2"},
        "--attention-backend: fa3 .*fp8_e4m3 alone.*; use flashinfer$",
    ),
    (
        "qwen3",
        "h100",
        {"attention_backend": "fa4", "kv_cache_dtype": "fp8_e4m3"},
        "--attention-backend: fa4 .*FP8.*; use fa3$",
    ),
    ("v3", "b200", {"attention_backend": "flashmla"}, "--attention-backend: flashmla .*sm_90.*; use trtllm_mla$"),
    (
        "v3",
        "rtx-pro-6000",
        {"attention_backend": "trtllm_mla"},
        "--attention-backend: trtllm_mla .*one token.*; use flashinfer$",
    ),
    (
        "glm5",
        "a100",
        {"attention_backend": "dsa", "dsa_prefill_backend": "flashmla_sparse", "dsa_decode_backend": "fa3"},
        "--attention-backend: dsa .*sm_90.*; use another GPU$",
    ),
    (
        "qwen3",
        "b200",
        {"attention_backend": "fa4", "kv_cache_dtype": "mxfp8"},
        "--kv-cache-dtype mxfp8: .*; use --kv-c",
    ),
    ("qwen3", "h100", {"attention_backend": "flashmla"}, "--attention-backend: flashmla .*latent.*; use fa3$"),
    ("qwen3", "h100", {"attention_backend": "qsa"}, "--attention-backend: qsa .*Qwen's.*; use fa3$"),
    ("qwen3", "h100", {"attention_backend": "minicpm_flashattn"}, "--attention-backend: minicpm_flashattn .*"),
    ("qwen3", "h100", {"attention_backend": "flex_attention"}, "--attention-backend: flex_attention .*"),
    ("qwen3", "h100", {"attention_backend": "aiter"}, "--attention-backend: aiter .*another maker.*; use fa3$"),
    ("qwen2.5", "h100", {}, r"--model-path /target \(Qwen2ForCausalLM\): cannot be served: .*configure_aux_hidden"),
    (
        "v4",
        "b200",
        {"attention_backend": "dsv4", "attn_dp_size": 2, "tp_size": 8},
        "--attn-dp-size 2 of --tp-size 8: cannot be served: .*DSparkWorkerV2",
    ),
]


@pytest.mark.parametrize(("model", "gpu", "given", "line"), LINES, ids=lambda value: str(value)[:40])
def test_a_refusal_is_one_line_with_flag_reason_symbol_and_remedy(
    models, model: str, gpu: str, given: dict[str, Any], line: str
) -> None:
    described = server(models[model], gpu, "fa3", **given)
    for asked in (None, "static", "compact", "cap-accept"):
        with pytest.raises(InputError, match=f"^{line}") as refused:
            support.choose(described, asked)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("model", [*CLASSES, "gpt-oss", "mimo"])
def test_what_is_advised_is_not_refused(models, model: str, gpu: str) -> None:
    """Neither in place of a refused backend nor to steer by."""
    for name in NAMES:
        for dtype in ("auto", "fp8_e4m3", "fp8_e5m2"):
            described = server(models[model], gpu, name, kv_cache_dtype=dtype)
            try:
                said = " ".join(one.why for one in support.choose(described, None).obstacles)
            except InputError as error:
                said = str(error)
            words = said.replace(";", "").split()
            if "use" not in words or "another" in words:
                continue
            advised = words[len(words) - 1 - words[::-1].index("use") + 1]
            assert (
                refusals.refusal(described, Built("attention_backend", advised, described.mla, verifies=True)) is None
            )
            if "steer" in words:
                other = server(models[model], gpu, advised, kv_cache_dtype=dtype)
                assert support.choose(other, None).mode == "compact"


def test_flashmla_may_prefill_beside_another_that_verifies(models) -> None:
    split = {"prefill_attention_backend": "flashmla", "speculative_attention_mode": "decode"}
    given = split | {"decode_attention_backend": "trtllm_mla"}
    assert support.choose(server(models["v3"], "b200", "trtllm_mla", **given), None).mode == "compact"


def test_models_with_two_backends_only() -> None:
    from sglang.srt.configs.inkling import InklingModelConfig

    inkling = SimpleNamespace(hf_text_config=InklingModelConfig())
    scales = next(row for row in SERVERS_REFUSED if "mxfp8" in row.name)
    assert scales.given(flags.server(model=inkling, kv_cache_dtype="mxfp8")) is None
    lfm2 = SimpleNamespace(hf_config=SimpleNamespace(architectures=["Lfm2ForCausalLM"]))
    for model, word, refused in ((inkling, "Inkling", {"fa3", "flashinfer"}), (lfm2, "LFM2", {"triton"})):
        row = next(row for row in BACKENDS_REFUSED if word in row.name)
        described = flags.server(model=model)
        for name in ("fa3", "fa4", "triton", "flashinfer"):
            assert row.holds(described, Built("attention_backend", name, False)) == (name in refused)
            assert not row.holds(described, Built("speculative_draft_attention_backend", name, False, draft=True))


def test_another_makers_gpu_and_the_cpu_engine() -> None:
    facts = vars(flags.H100) | {"is_cuda": False, "is_hip": True, "device_capability": (9, 4)}
    for name, possible in (("aiter", True), ("triton", True), ("flashinfer", False), ("intel_xpu", False)):
        described = flags.server(attention_backend=name, platform=SimpleNamespace(**facts))
        assert (refusals.refusal(described, refusals.built(described)[0]) is None) is possible
    facts = vars(flags.H100) | {"is_cuda": False, "device_capability": None}
    for name, possible in (("torch_native", True), ("triton", False), ("flashinfer", False)):
        given = {"attention_backend": name, "platform": SimpleNamespace(**facts), "device": "cpu", "cpu_engine": True}
        described = flags.server(**given)
        assert [refusals.refusal(described, one) is None for one in refusals.built(described)] == [possible]


def test_a_decode_backend_that_verifies_nothing_may_be_torchs(models) -> None:
    split = {"attention_backend": "fa3", "decode_attention_backend": "torch_native"}
    assert support.choose(server(models["qwen3"], "h100", "fa3", **split), None).mode == "compact"


def test_a_prefill_server_verifies_nothing(models) -> None:
    described = server(models["qwen3"], "h100", "torch_native", disaggregation_mode="prefill")
    assert support.choose(described, None).mode == "static"


def test_the_draft_of_a_target_with_another_backend_has_its_fallback(models) -> None:
    described = server(models["v3"], "b200", "trtllm_mla", speculative_draft_attention_backend=None)
    assert [(one.name, one.draft) for one in refusals.built(described)] == [("trtllm_mla", False), ("flashinfer", True)]


def test_a_block_longer_than_qwens_sparse_attention_compresses(models) -> None:
    from sglang.srt.layers.attention.qwen_sparse_attn_backend import QwenSparseAttnBackend

    config = SimpleNamespace(
        architectures=["Qwen4ExpForConditionalGeneration"],
        indexer_n_heads=4,
        indexer_kv_heads=1,
        indexer_head_dim=128,
        indexer_budget=2048,
        indexer_compress_ratio=4,
    )
    model = SimpleNamespace(hf_config=config, hf_text_config=config)
    mode = SimpleNamespace(is_target_verify=lambda: True)
    refusal = next(row for row in SERVERS_REFUSED if "compresses" in row.name)
    for width in (4, 5):
        described = flags.server(model=model, speculative_num_draft_tokens=width)
        spec = SimpleNamespace(topk=1, draft_token_num=width)
        try:
            QwenSparseAttnBackend._require_chain_speculation(SimpleNamespace(compress_ratio=4), mode, spec)
            theirs = None
        except NotImplementedError:
            theirs = f"--speculative-dspark-block-size {width - 1}"
        assert refusal.given(described) == theirs


@pytest.mark.parametrize(
    "module",
    ["qwen2", "qwen3", "qwen3_moe", "llama", "mixtral", "mistral", "gemma3_causal", "glm4_moe", "phi", "gpt_oss"],
)
def test_classes_that_hand_over_hidden_states_have_the_methods(module: str) -> None:
    entries = importlib.import_module(f"{target_class.MODELS}.{module}").EntryClass
    for entry in entries if isinstance(entries, list) else [entries]:
        has = any(hasattr(entry, method) for method in target_class.METHODS)
        assert target_class.hands_over_hidden_states(entry.__name__) is has


def test_a_class_that_sglang_does_not_have_is_unknown() -> None:
    assert target_class.hands_over_hidden_states("OfAnotherPackageForCausalLM") is None
    # It passes on what its language model has.
    assert target_class.hands_over_hidden_states("MiniCPMV") is True


def test_the_methods_are_those_that_sglang_asks_for() -> None:
    found = upstream_source.place(next(row.shown for row in SERVERS_REFUSED if "hidden states" in row.name))
    names = {node.value for node in ast.walk(found.node) if isinstance(node, ast.Constant)}
    assert set(target_class.METHODS) <= names


@pytest.mark.parametrize("row", [*BACKENDS_REFUSED, *SERVERS_REFUSED], ids=lambda row: row.name)
def test_symbols_are_in_the_installed_sglang(row: Any) -> None:
    assert upstream_source.place(row.shown) is not None or row.shown == refusals.REGISTRY


def test_backends_that_are_refused_everywhere_are_said_to_be(models) -> None:
    for name in NAMES:
        described = [server(models[model], gpu, name) for model in CLASSES for gpu in GPUS]
        everywhere = all(refusals.refusal(one, refusals.built(one)[0]) is not None for one in described)
        rows = [row for row in support.BACKENDS if name in row.names]
        other = name in (name for fact, names in PLATFORMS.items() if fact != "is_cuda" for name in names)
        assert everywhere == (all(row.packed == "refused" for row in rows) or other or name == "qsa"), name
