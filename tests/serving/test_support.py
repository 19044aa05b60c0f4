"""The table of SGLang's supported features: its truth for the installed version, and the decisions taken from it."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_dspark.demo import DRAFT, TARGET
from sglang_dspark.errors import InputError
from sglang_dspark.policy.artifact import save
from sglang_dspark.serving import launch, serve_check, support
from sglang_dspark.serving.evidence import offline
from sglang_dspark.serving.support import BACKENDS, CHECK_BACKEND, CPU_BACKEND, FEATURES, MODEL_CLASSES, Choice
from tests.serving import answers, flags, upstream_source
from tests.serving.answers import Question
from tests.serving.configs import CONFIGS

FLAG = "supports_ragged_verify_graph"
DOCS = Path(__file__).parents[2] / "docs"


pytestmark = pytest.mark.usefixtures("environment")


SHOWN = [row.shown for row in (*BACKENDS, CPU_BACKEND, CHECK_BACKEND, *MODEL_CLASSES, *FEATURES)]
SYMBOLS = {*SHOWN, *(row.symbol for row in (*BACKENDS, CPU_BACKEND, CHECK_BACKEND, *MODEL_CLASSES))}


@pytest.mark.parametrize("symbol", sorted(SYMBOLS))
def test_symbols_are_in_the_installed_sglang(symbol: str) -> None:
    assert upstream_source.place(symbol) is not None


@pytest.mark.parametrize(
    "row", [*BACKENDS, CHECK_BACKEND, *MODEL_CLASSES], ids=lambda row: row.symbol.rpartition(".")[2]
)
def test_flags_are_those_of_the_classes(row: Any) -> None:
    found = upstream_source.place(row.symbol)
    if not isinstance(found.node, ast.ClassDef):
        assert row.flag is None
        return
    defined = upstream_source.attribute(row.symbol, FLAG)
    if row.flag is None:
        assert defined is None or isinstance(defined, ast.FunctionDef)  # A property that asks another backend.
    elif defined is None:
        assert not row.flag and "npu" in row.symbol
    else:
        assert isinstance(defined, ast.AnnAssign) and isinstance(defined.value, ast.Constant)
        assert defined.value.value is row.flag


def test_only_backends_with_the_flag_are_said_to_replay_packed_rows() -> None:
    assert all(row.flag for row in BACKENDS if row.packed == "graph")
    # The flag is inherited, and wrong: neither looks at the lengths of a request.
    assert [row.names for row in BACKENDS if row.flag and row.packed != "graph"] == [("flashmla",)]


@pytest.mark.parametrize("row", [row for row in BACKENDS if row.packed == "wrong"], ids=lambda row: row.names[0])
def test_backends_that_are_said_not_to_look_at_lengths_do_not(row: Any) -> None:
    found = upstream_source.place(row.symbol)
    names = {node.attr for node in ast.walk(found.node) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(found.node) if isinstance(node, ast.Name)}
    assert not names & {"ragged_verify_layout", "resolve_ragged_verify_layout"}


def test_every_backend_that_sglang_registers_has_a_row() -> None:
    tree = ast.parse(Path(str(_registry())).read_text())
    names = {
        call.args[0].value
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        for call in function.decorator_list
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "register_attention_backend"
    }
    assert len(names) > 15
    assert names == {name for row in BACKENDS for name in row.names}


def _registry() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("sglang")
    return Path(spec.submodule_search_locations[0]) / "srt/layers/attention/attention_registry.py"


def test_features_read_flags_that_sglang_has() -> None:
    from sglang.srt.server_args import ServerArgs

    read = {field for row in FEATURES for field in row.fields}
    assert read <= set(ServerArgs.__struct_fields__)
    assert set(flags.CFG) <= set(ServerArgs.__struct_fields__)


def test_the_documentation_has_the_table() -> None:
    assert support.markdown() in (DOCS / "serving.md").read_text()


B200, RTX = flags.gpu("b200"), flags.gpu("rtx-pro-6000")
MI300X = SimpleNamespace(**vars(B200) | {"is_cuda": False, "is_hip": True, "device_capability": (9, 4)})
NO_GRAPHS = SimpleNamespace(decode=SimpleNamespace(backend="disabled", bs=None))

# By what a server has, what follows where its operator has not chosen: packed rows, or whole blocks and why.
DECIDED: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"attention_backend": "fa4", "platform": B200}, None),
    ({"attention_backend": "trtllm_mha", "platform": B200}, None),
    ({"attention_backend": "trtllm_mha"}, "--attention-backend trtllm_mha on sm_90"),
    ({"attention_backend": "trtllm_mha", "platform": RTX}, "--attention-backend trtllm_mha on sm_120"),
    ({"attention_backend": "trtllm_mla", "mla": True, "platform": B200}, None),
    ({"attention_backend": "cutedsl_mla", "mla": True, "platform": B200}, None),
    ({"attention_backend": "flashinfer", "mla": True}, None),
    ({"attention_backend": "flashmla", "mla": True}, "--attention-backend flashmla"),
    ({"attention_backend": "flashinfer"}, "--attention-backend flashinfer"),
    ({"attention_backend": "flashinfer", "cuda_graph_config": NO_GRAPHS}, None),
    ({"attention_backend": "triton"}, "--attention-backend triton"),
    ({"attention_backend": "triton", "cuda_graph_config": NO_GRAPHS}, "--attention-backend triton"),
    ({"attention_backend": "dsa", "mla": True}, "--attention-backend dsa"),
    ({"attention_backend": "aiter", "platform": MI300X}, "--attention-backend aiter"),
    ({"attention_backend": "torch_native", "device": "cpu", "cpu_engine": True}, None),
    ({"attention_backend": "dspark_triton"}, None),
    ({"attention_backend": "of_another_package"}, "--attention-backend of_another_package"),
    # Verification is the prefill backend's, unless it is said to be the decode backend's.
    ({"prefill_attention_backend": "triton"}, "--prefill-attention-backend triton"),
    ({"decode_attention_backend": "triton"}, None),
    (
        {"decode_attention_backend": "triton", "speculative_attention_mode": "decode"},
        "--decode-attention-backend triton",
    ),
    ({"prefill_attention_backend": "triton", "speculative_attention_mode": "decode"}, None),
    ({"enable_lora": True}, "--enable-lora"),
    ({"lora_paths": ["a"]}, "--lora-paths"),
    ({"enable_two_batch_overlap": True}, "--enable-two-batch-overlap"),
    ({"disable_cuda_graph_padding": True}, "--disable-cuda-graph-padding"),
    ({"disable_cuda_graph_padding": True, "cuda_graph_config": NO_GRAPHS}, None),
    ({"attn_dp_size": 8}, "--attn-dp-size 8"),
    ({"attn_cp_size": 2}, "--attn-cp-size 2"),
    ({"dcp_size": 4}, "--dcp-size 4"),
    ({"pp_size": 2}, "--pp-size 2"),
    ({"use_ray": True}, "--use-ray"),
    ({"disaggregation_mode": "prefill"}, "--disaggregation-mode prefill"),
    ({"disaggregation_mode": "decode"}, None),
    ({"quantization": "minimax_m3_nvfp4"}, "--quantization minimax_m3_nvfp4"),
    ({"speculative_use_block_verification": True}, "--speculative-use-block-verification"),
    ({"enable_nvidia_megakernel": True}, "--enable-nvidia-megakernel"),
    ({"enable_amd_monokernel": True}, "--enable-amd-monokernel"),
    ({"device": "npu"}, "--device npu"),
    (
        {"enable_linear_replayssm_spec": True, "linear_attn_verify_backend": "flashinfer"},
        "--enable-linear-replayssm-spec with --linear-attn-verify-backend flashinfer",
    ),
    ({"enable_linear_replayssm_spec": True, "linear_attn_verify_backend": "triton"}, None),
]


@pytest.mark.parametrize(("server", "hindered"), DECIDED, ids=str)
def test_the_table_decides(server: dict[str, Any], hindered: str | None) -> None:
    described = flags.server(**server)
    choice = support.choose(described, None)
    if hindered is None:
        assert choice == Choice("compact")
        assert support.choose(described, "compact") == Choice("compact")
        return
    assert choice.mode == "static"
    assert choice.obstacles[0].what == hindered
    assert hindered in launch.summary(choice) and support.VARIABLE not in launch.summary(choice)
    with pytest.raises(InputError, match=f"^{support.VARIABLE}: compact .*{hindered}"):
        support.choose(described, "compact")
    assert support.choose(described, "static") == Choice("static")


def test_cap_accept_is_only_obeyed() -> None:
    assert support.choose(flags.server(), "cap-accept").mode == "cap-accept"
    assert support.choose(flags.server(attention_backend="triton"), "cap-accept").mode == "cap-accept"
    assert support.choose(flags.server(attention_backend="triton"), None).mode == "static"
    with pytest.raises(InputError, match="--enable-lora"):
        support.choose(flags.server(enable_lora=True), "cap-accept")


def test_a_verify_mode_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=f"^{support.VARIABLE}: 'often'"):
        support.choose(flags.server(), "often")


def test_online_compression_is_seen_in_the_environment() -> None:
    os.environ["SGLANG_OPT_USE_ONLINE_COMPRESS"] = "1"
    os.environ["SGLANG_EXPERIMENTAL_ONLINE_C128_MTP"] = "true"
    choice = support.choose(flags.server(attention_backend="dsv4"), None)
    assert choice.obstacles[0].what == "SGLANG_EXPERIMENTAL_ONLINE_C128_MTP"
    assert support.choose(flags.server(), None).mode == "compact"


# Through SGLang's own resolution of a command line, on this machine without a GPU.

LORA = ("--enable-lora", "--max-lora-rank", "8", "--lora-target-modules", "q_proj")

# Model (the demo's if None), GPU, other flags; what is decided, and a word of why.
CASES: list[tuple[str | None, str, tuple[str, ...], str, str]] = [
    (None, "h100", (), "compact", ""),
    # L01
    (None, "h100", LORA, "static", "--enable-lora"),
    (None, "h100", ("--disable-cuda-graph-padding",), "static", "--disable-cuda-graph-padding"),
    # L02
    (None, "a100", (), "static", "--attention-backend flashinfer"),
    (None, "l40s", (), "static", "--attention-backend flashinfer"),
    (None, "rtx-pro-6000", (), "static", "--attention-backend flashinfer"),
    (None, "a100", ("--attention-backend", "fa3"), "compact", ""),
    (None, "a100", ("--disable-cuda-graph",), "compact", ""),
    (None, "h100", ("--attention-backend", "triton"), "static", "--attention-backend triton"),
    (None, "a100", ("--kv-cache-dtype", "fp8_e5m2"), "static", "captures graphs)"),
    (None, "h100", ("--kv-cache-dtype", "fp8_e5m2"), "static", "equal length)"),
    ("mistral", "h100", (), "compact", ""),
    # L03
    (None, "h100", ("--attention-backend", "trtllm_mha"), "static", "trtllm_mha on sm_90"),
    (None, "b200", ("--attention-backend", "trtllm_mha"), "compact", ""),
    (None, "h100", ("--prefill-attention-backend", "fa3", "--decode-attention-backend", "flashinfer"), "compact", ""),
    (
        None,
        "h100",
        ("--prefill-attention-backend", "flashinfer", "--decode-attention-backend", "fa3"),
        "static",
        "--prefill-attention-backend flashinfer",
    ),
    # L01, further features.
    (None, "h100", ("--tp-size", "2", "--attn-dp-size", "2", "--enable-dp-lm-head"), "static", "--attn-dp-size 2"),
    (None, "h100", ("--dcp-size", "2", "--tp-size", "2"), "static", "--dcp-size 2"),
    (None, "h100", ("--disaggregation-mode", "prefill"), "static", "--disaggregation-mode prefill"),
    (None, "h100", ("--disaggregation-mode", "decode"), "compact", ""),
    (None, "h100", ("--speculative-use-block-verification",), "static", "--speculative-use-block-verification"),
    ("v4", "b200", ("--disaggregation-mode", "decode"), "compact", ""),
    ("v4.1", "b200", ("--disaggregation-mode", "decode"), "static", "--disaggregation-mode decode with DeepSeek-V4.1"),
    # L04
    ("v4.1", "b200", (), "static", "Engram"),
    ("v4", "b200", (), "compact", ""),
    ("v4", "h200", (), "compact", ""),
    # L05
    ("qwen3-next", "h100", (), "static", "gated delta"),
    ("qwen3.5", "h100", (), "static", "gated delta"),
    ("glm5", "h100", (), "static", "--attention-backend dsa"),
    ("nemotron-h", "h100", (), "static", "Mamba"),
    ("kimi", "h100", (), "compact", ""),
    ("v3", "h100", (), "compact", ""),
    ("v3", "b200", (), "compact", ""),
    ("v3", "a100", (), "static", "--attention-backend triton"),
]
FORCED = {support.VARIABLE: "compact"}
REFUSED: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    (("--speculative-dspark-block-size", "0"), {}, "sglang: .*block-size"),
    (("--tp-size", "3", "--nnodes", "2"), {}, "sglang: "),
    (("--enable-two-batch-overlap",), {}, "sglang: .*two batch overlap"),
    (("--speculative-dspark-record", "x"), {}, ".*--speculative-dspark-policy"),
    (("--attention-backend", "triton"), FORCED, f"{support.VARIABLE}: compact .*--attention-backend triton"),
    (LORA, FORCED, f"{support.VARIABLE}: compact .*--enable-lora"),
    (LORA, {support.VARIABLE: "often"}, f"{support.VARIABLE}: 'often'"),
    ((), {"SGLANG_SIMULATE_ACC_LEN": "abc"}, "SGLANG_SIMULATE_ACC_LEN: 'abc' is not valid"),
    (("--speculative-draft-model-path", "/no/draft"), {}, "--speculative-draft-model-path: /no/draft is not here"),
    (("--config", "/no/such.yaml"), {}, "sglang: .*/no/such.yaml"),
    (("--model-path", "/no/target"), {}, "--model-path: /no/target is not here"),
    (("--attention-backend", "hpc_ops"), {}, "--attention-backend: hpc_ops cannot serve"),
    (("--attention-backend", "fa4", "--kv-cache-dtype", "fp8_e4m3"), {}, "--attention-backend: fa4 cannot serve"),
    (
        ("--speculative-draft-model-path", "nobody/no-such-draft"),
        {"HF_HUB_OFFLINE": "1"},
        "--speculative-draft-model-path.* nobody/no-such-draft",
    ),
    (("--decode-attention-backend", "dsv4"), {}, "--decode-attention-backend: dsv4 cannot serve"),
    (("--speculative-draft-attention-backend", "ascend"), {}, "--speculative-draft-attention-backend: ascend cannot"),
]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The answers to :data:`CASES`, :data:`REFUSED` and to servers with a policy."""
    folder = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    save(offline.artifact(server_flags={"--cuda-graph-bs-decode": "1 2 4"}), folder / "policy.json")
    save(offline.artifact(gamma=5), folder / "other.json")

    def question(
        model: str | None, gpu: str, more: tuple[str, ...], environment: dict[str, str] | None = None
    ) -> Question:
        fused = model is not None and "dspark_block_size" in CONFIGS[model]
        draft = () if fused else ("--speculative-draft-model-path", str(DRAFT))
        words = ("--model-path", str(folder / model if model else TARGET), "--skip-tokenizer-init", "--device", "cuda")
        return Question((*words, "--speculative-algorithm", "DSPARK", *draft, *more), gpu, environment or {})

    policy = ("--speculative-dspark-policy", str(folder / "policy.json"))
    other = ("--speculative-dspark-policy", str(folder / "other.json"))
    asked = {
        "cases": [question(model, gpu, more) for model, gpu, more, _, _ in CASES],
        "refused": [question(None, "h100", more, environment) for more, environment, _ in REFUSED],
        "lists": [
            question(None, "h100", ("--cuda-graph-bs-decode", "1", "32", "192")),
            question(None, "h100", ("--disable-cuda-graph",)),
        ],
        "policy": [
            question(None, "h100", policy),
            question(None, "h100", (*policy, *LORA)),
            question(None, "a100", policy),
            question(None, "h100", (*policy, "--cuda-graph-bs-decode", "1", "32", "192")),
            question(None, "h100", (*policy, *LORA, "--speculative-dspark-record", "x")),
            question(None, "h100", other),
            question(None, "h100", policy, {support.VARIABLE: "static"}),
            question(None, "h100", policy, {support.VARIABLE: "cap-accept"}),
        ],
    }
    flat = answers.ask([one for questions in asked.values() for one in questions])
    return {name: [flat.pop(0) for _ in questions] for name, questions in asked.items()}


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: f"{CASES[i][0] or 'qwen3'}-{CASES[i][1]}-{i}")
def test_sglangs_own_defaults_are_decided_on(answered, case: int) -> None:
    found = answered["cases"][case]
    _, _, _, mode, named = CASES[case]
    assert found.get("mode") == mode and named in found["said"], found
    assert support.VARIABLE not in found["said"] and "\n" not in found["said"]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_sglang_or_we_refuse_is_answered_in_one_line(answered, case: int) -> None:
    error = answered["refused"][case].get("error", "")
    assert re.match(REFUSED[case][2], error) and "\n" not in error, answered["refused"][case]


def test_captured_graphs_of_a_list_of_batches_are_told(answered) -> None:
    listed, eager = answered["lists"]
    assert listed["captured"] == [8, 256, 1536]  # L06
    assert eager["captured"] == []


def test_a_policy_on_the_command_line_is_checked_too(answered) -> None:
    packed, lora, a100, listed, record, other, static, cap_accept = answered["policy"]
    assert packed["mode"] == "compact"
    assert [lora["mode"], a100["mode"]] == ["static", "static"]
    for one in (lora, a100):
        # What its server logs: never a variable that its operator did not set.
        line = next(line for line in one["log"] if "whole blocks" in line)
        assert line.startswith(launch.POLICY) and support.VARIABLE not in line
    assert any("(now --cuda-graph-bs-decode 1 32 192)" in line for line in listed["log"])  # L06
    assert record["error"].startswith("--speculative-dspark-record: ") and "--enable-lora" in record["error"]
    assert "gamma: 5" in other["error"]
    assert static["mode"] == "static" and support.VARIABLE in static["said"]
    assert cap_accept["mode"] == "cap-accept" and "throws acceptances away" in cap_accept["said"]


def test_nothing_of_one_answer_is_left_for_the_next(answered) -> None:
    assert all(not one["left"] for one in answered["policy"] if "left" in one)


def test_a_gpu_that_is_neither_here_nor_named_is_asked_for() -> None:
    os.environ["SGLANG_USE_CPU_ENGINE"] = "0"
    with pytest.raises(InputError, match=r"^gpu: this machine has none"):
        serve_check.answer(["--model-path", str(TARGET)])
    with pytest.raises(InputError, match=r"^gpu: 'h300' is not known"):
        serve_check.answer(["--model-path", str(TARGET)], "h300")
