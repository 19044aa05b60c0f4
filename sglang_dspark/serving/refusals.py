"""Servers that SGLang 0.5.23 ends after loading their weights, known before it loads them.

SGLang builds attention backends, and takes hidden states from the target, once the weights are loaded; some fail
only at the first verification. The tables say which, and name where SGLang shows it; ``tests/serving/test_refusals.py``
holds them against SGLang's own functions for every backend, model class and GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sglang_dspark.errors import InputError
from sglang_dspark.serving.resolved_server import ATTENTION, HOOKS, ResolvedServer, by, is_a, option
from sglang_dspark.serving.target_class import hands_over_hidden_states

REGISTRY: Final = f"{ATTENTION}.attention_registry"
CONFIG: Final = "sglang.srt.configs.model_config"
KERNELS: Final = "sglang.kernels.ops.attention"


class Built(NamedTuple):
    """An attention backend that a server builds.

    Attributes:
        field: The flag that names it.
        name: SGLang's name.
        mla: It serves multi-head latent attention.
        draft: It is the draft's, not the target's.
        verifies: It is the one of target verification.
    """

    field: str
    name: str
    mla: bool
    draft: bool = False
    verifies: bool = False


def built(server: ResolvedServer) -> tuple[Built, ...]:
    """The attention backends of a server: the target's, that of verification first, and the draft's."""
    cfg = server.cfg
    verifies = cfg.disaggregation_mode != "prefill"
    fields = dict.fromkeys((server.verify_field, server.field("prefill"), server.field("decode")))
    backends = [
        Built(field, str(getattr(cfg, field)), server.mla, verifies=verifies and field == server.verify_field)
        for field in fields
    ]
    # The draft of DeepSeek-V4 has the target's, and that of the CPU engine what the engine has.
    if not server.cpu_engine and not server.is_model(_V4):
        backends.append(Built("speculative_draft_attention_backend", _draft(server), False, draft=True))
    return tuple(backends)


def _draft(server: ResolvedServer) -> str:
    """The draft's backend, as ``draft_worker_common.resolve_draft_worker_attention_backend`` chooses it."""
    from sglang.srt.arg_groups.choices import DRAFT_ATTENTION_BACKEND_CHOICES

    name = server.cfg.speculative_draft_attention_backend or getattr(server.cfg, server.field("prefill"))
    if name in DRAFT_ATTENTION_BACKEND_CHOICES:
        return str(name)
    return "flashinfer" if server.platform.is_cuda else "triton"


class BackendRefusal(NamedTuple):
    """Attention backends that some servers cannot have.

    Attributes:
        name: Which, for people.
        holds: Whether a server's backend is one.
        shown: Where SGLang refuses it or fails.
        why: For people.
    """

    name: str
    holds: Callable[[ResolvedServer, Built], bool]
    shown: str
    why: str


class ServerRefusal(NamedTuple):
    """Targets and combinations of flags that SGLang ends with, for any attention backend.

    Attributes:
        name: Which, for people.
        given: The server's flag or property that it applies to, as the operator wrote it; None where there is none.
        shown: Where SGLang refuses it.
        why: For people.
        remedy: What to do.
    """

    name: str
    given: Callable[[ResolvedServer], str | None]
    shown: str
    why: str
    remedy: str


_V4: Final = by(f"{CONFIG}.is_deepseek_v4", "hf_config")
_DSA: Final = by(f"{CONFIG}.is_deepseek_dsa", "hf_config")
_GDN: Final = by("sglang.srt.configs.hybrid_arch.hybrid_gdn_config")
_QSA: Final = by(f"{ATTENTION}.qsa.config.is_qwen_qsa", "hf_config")
_INKLING: Final = is_a("sglang.srt.configs.inkling.InklingModelConfig", "hf_text_config")

# The platforms of backends, by SGLang's name for the fact. The others of SGLang run anywhere.
PLATFORMS: Final = {
    "is_cuda": (
        *("fa4", "flashinfer", "flashmla", "trtllm_mla", "cutedsl_mla", "trtllm_mha"),
        *("hpc_ops", "llada2_cfg_flashinfer", "minicpm_flashinfer"),
    ),
    "is_hip": ("aiter", "wave"),
    "is_xpu": ("intel_xpu",),
    "is_npu": ("ascend",),
}

# Where SGLang lists the backends of a class of models: the last name shows it.
_GEMMA4: Final = ("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM", "Gemma4UnifiedForConditionalGeneration")
LISTED: Final[dict[tuple[str, ...], tuple[str, ...]]] = {
    ("GptOssForCausalLM",): ("triton", "trtllm_mha", "fa3", "fa4", "ascend", "intel_amx", "intel_xpu", "aiter"),
    _GEMMA4: ("trtllm_mha", "triton", "fa4", "ascend", "intel_xpu", "intel_amx", "aiter"),
}


def _elsewhere(server: ResolvedServer, backend: Built) -> bool:
    fact = next((fact for fact, names in PLATFORMS.items() if backend.name in names), None)
    return not server.cpu_engine and fact is not None and not getattr(server.platform, fact)


def _listed(server: ResolvedServer, backend: Built) -> bool:
    names = next((names for models, names in LISTED.items() if server.architecture in models), None)
    return names is not None and not backend.draft and backend.name not in names


def _on(majors: tuple[int, ...], *names: str) -> Callable[[ResolvedServer, Built], bool]:
    """These backends on NVIDIA GPUs of another capability than ``majors``."""
    return lambda server, backend: backend.name in names and server.major is not None and server.major not in majors


def _gdn_on_blackwell(server: ResolvedServer, backend: Built) -> bool:
    if backend.draft or server.major not in (10, 11, 12) or not server.is_model(_GDN):
        return False
    return backend.name not in (("triton", "trtllm_mha", "flashinfer") + (("fa4",) if server.major != 12 else ()))


BACKENDS_REFUSED: Final = (
    BackendRefusal(
        "`fa3` on sm_100 and later",
        _on((8, 9), "fa3"),
        f"{REGISTRY}.create_flashattention_v3_backend",
        "its kernels are for sm_80 to sm_90",
    ),
    BackendRefusal(
        "`fa3` for MLA on sm_8x",
        lambda server, backend: backend.name == "fa3" and backend.mla and server.major == 8,
        f"{REGISTRY}.create_flashattention_v3_backend",
        "its kernels for latent attention are for sm_90",
    ),
    BackendRefusal(
        "`fa3` with `--kv-cache-dtype fp8_e5m2`",
        lambda server, backend: backend.name == "fa3" and server.cfg.kv_cache_dtype == "fp8_e5m2",
        f"{HOOKS}.overrides._attention_backend_fa3_fp8_fallback",
        "of FP8 it takes fp8_e4m3 alone",
    ),
    BackendRefusal(
        "`fa4` on sm_8x",
        _on((9, 10, 11, 12), "fa4"),
        f"{KERNELS}.flash_attn.cute.interface._flash_attn_fwd",
        "its kernels there take no paged KV cache",
    ),
    BackendRefusal(
        "`fa4` for MLA on other GPUs than sm_100 and sm_110",
        lambda server, backend: backend.mla and _on((10, 11), "fa4")(server, backend),
        f"{KERNELS}.flash_attn.cute.interface._flash_attn_fwd",
        "its kernels for latent attention are for sm_100 and sm_110",
    ),
    BackendRefusal(
        "`fa4` with an FP8 KV cache on other GPUs than sm_100",
        lambda server, backend: str(server.cfg.kv_cache_dtype).startswith("fp8") and _on((10,), "fa4")(server, backend),
        f"{KERNELS}.flash_attn.cute.interface._flash_attn_fwd",
        "its FP8 kernels are for sm_100",
    ),
    BackendRefusal(
        "`trtllm_mha` for MLA",
        lambda server, backend: backend.name == "trtllm_mha" and backend.mla,
        f"{REGISTRY}.create_trtllm_mha_backend",
        "it has no latent attention",
    ),
    BackendRefusal(
        "`trtllm_mha` on sm_8x",
        _on((9, 10, 12), "trtllm_mha"),
        f"{HOOKS}.attention_hook.handle_attention_backend_compatibility",
        "its kernels are for sm_90, sm_100 and sm_120",
    ),
    BackendRefusal(
        "`trtllm_mla`, `cutedsl_mla` for MHA",
        lambda server, backend: backend.name in ("trtllm_mla", "cutedsl_mla") and not backend.mla,
        f"{REGISTRY}.create_trtllm_mla_backend",
        "it has latent attention only",
    ),
    BackendRefusal(
        "`trtllm_mla` before sm_100",
        _on((10, 11, 12), "trtllm_mla"),
        f"{HOOKS}.overrides._mla_kv_cache_dtype_checks",
        "its kernels are for sm_100 and later",
    ),
    BackendRefusal(
        "`trtllm_mla` verifying on sm_120",
        lambda server, backend: backend.verifies and _on((9, 10, 11), "trtllm_mla")(server, backend),
        f"{ATTENTION}.trtllm_mla_backend.TRTLLMMLABackend._run_decode_kernel",
        "FlashInfer's kernel there takes one token of a request",
    ),
    BackendRefusal(
        "`cutedsl_mla` on other GPUs than sm_100",
        _on((10,), "cutedsl_mla"),
        f"{HOOKS}.overrides._cutedsl_prefill_backend_fill",
        "its kernels are for sm_100",
    ),
    BackendRefusal(
        "`trtllm_mla` with context parallelism of decoding",
        lambda server, backend: backend.name == "trtllm_mla" and backend.mla and server.cfg.dcp_size > 1,
        f"{REGISTRY}.create_trtllm_mla_backend",
        "it merges no ranks where drafts are verified",
    ),
    BackendRefusal(
        "`flashmla` for MHA",
        lambda server, backend: backend.name == "flashmla" and not backend.mla,
        f"{ATTENTION}.flashinfer_mla_backend.FlashInferMLAIndicesUpdaterDecode.__init__",
        "it has latent attention only",
    ),
    BackendRefusal(
        "`flashmla` verifying on other GPUs than sm_90",
        lambda server, backend: backend.verifies and _on((9,), "flashmla")(server, backend),
        f"{KERNELS}.flash_mla_interface.flash_mla_with_kvcache",
        "its kernels for dense decoding are for sm_90",
    ),
    BackendRefusal(
        "`dsv4` for other models than DeepSeek-V4",
        lambda server, backend: backend.name == "dsv4" and server.is_other(_V4),
        f"{ATTENTION}.deepseek_v4_backend.DeepseekV4AttnBackend.__init__",
        "it is DeepSeek-V4's own",
    ),
    BackendRefusal(
        "other than `dsv4` for DeepSeek-V4",
        lambda server, backend: backend.name != "dsv4" and server.is_model(_V4),
        f"{HOOKS}.model_overrides.deepseek_v4._deepseek_v4_overrides",
        "DeepSeek-V4 has its own attention",
    ),
    BackendRefusal(
        "`dsv4` on sm_8x",
        _on((9, 10, 11, 12), "dsv4"),
        f"{KERNELS}.flash_mla_interface.flash_mla_with_kvcache",
        "its kernels are for sm_90 and later",
    ),
    BackendRefusal(
        "`dsa`, `nsa` with FlashMLA's kernels on sm_8x",
        lambda server, backend: (
            _on((9, 10, 11, 12), "dsa", "nsa")(server, backend)
            and "flashmla" in f"{server.cfg.dsa_prefill_backend} {server.cfg.dsa_decode_backend}"
        ),
        f"{KERNELS}.flash_mla_interface.flash_mla_with_kvcache",
        "its kernels are for sm_90 and later",
    ),
    BackendRefusal(
        "`dsa`, `nsa` for models without DeepSeek's sparse attention",
        lambda server, backend: backend.name in ("dsa", "nsa") and server.is_other(_DSA),
        f"{ATTENTION}.dsa_backend.DeepseekSparseAttnBackend.__init__",
        "the model has no sparse attention of DeepSeek's",
    ),
    BackendRefusal(
        "`qsa` for models without Qwen's sparse attention",
        lambda server, backend: backend.name == "qsa" and server.is_other(_QSA),
        f"{ATTENTION}.qwen_sparse_attn_backend.QwenSparseAttnBackend.forward_extend",
        "the model has no sparse attention of Qwen's",
    ),
    BackendRefusal(
        "`hpc_ops`",
        lambda server, backend: backend.name == "hpc_ops",
        f"{REGISTRY}.create_hpc_ops_backend",
        "SGLang has it without speculative decoding only",
    ),
    BackendRefusal(
        "`minicpm_flashattn`, `minicpm_flashinfer`",
        lambda server, backend: backend.name in ("minicpm_flashattn", "minicpm_flashinfer"),
        f"{ATTENTION}.minicpm.backend.MiniCPMSparseBackend.init_forward_metadata",
        "SGLang has it without speculative decoding only",
    ),
    BackendRefusal(
        "`flex_attention`",
        lambda server, backend: backend.name == "flex_attention",
        f"{HOOKS}.attention_hook.handle_attention_backend_compatibility",
        "SGLang has it without speculative decoding only",
    ),
    BackendRefusal(
        "`torch_native` verifying, but for the CPU engine of this package",
        lambda server, backend: backend.name == "torch_native" and backend.verifies and not server.cpu_engine,
        f"{ATTENTION}.torch_native_backend.TorchNativeAttnBackend._run_sdpa_forward_extend",
        "it has no form for verification",
    ),
    BackendRefusal(
        "`llada2_cfg_flashinfer` for MLA",
        lambda server, backend: backend.name == "llada2_cfg_flashinfer" and backend.mla,
        f"{REGISTRY}.create_llada2_cfg_flashinfer_backend",
        "it has no latent attention",
    ),
    BackendRefusal(
        "`flashinfer`, `trtllm_mha` for K and V of different widths (MiMo-V2)",
        lambda server, backend: (
            backend.name in ("flashinfer", "trtllm_mha")
            and not (backend.draft or backend.mla)
            and server.is_model(lambda model: bool(model.has_asymmetric_kv))
        ),
        f"{HOOKS}.kv_cache_hook.ASYMMETRIC_KV_BACKENDS",
        "it takes K and V of one width",
    ),
    BackendRefusal(
        "other than `triton`, `trtllm_mha`, `flashinfer` and on sm_100 `fa4` for gated delta layers on Blackwell",
        _gdn_on_blackwell,
        f"{REGISTRY}.attn_backend_wrapper",
        "SGLang lists the backends that it has beside gated delta layers there",
    ),
    BackendRefusal(
        "other than `fa4`, `triton` for Inkling",
        lambda server, backend: (
            not backend.draft and backend.name not in ("fa4", "triton") and server.is_model(_INKLING)
        ),
        "sglang.srt.models.inkling_common.attn.InklingAttention.forward",
        "its relative positions are in these two only",
    ),
    BackendRefusal(
        "other than SGLang lists for gpt-oss and Gemma 4",
        _listed,
        f"{HOOKS}.model_hook.handle_model_specific_adjustments",
        "SGLang lists the backends of this model",
    ),
    BackendRefusal(
        "`triton` for LFM2",
        lambda server, backend: (
            backend.name == "triton"
            and not backend.draft
            and server.architecture in ("Lfm2ForCausalLM", "Lfm2MoeForCausalLM")
        ),
        f"{HOOKS}.model_hook.handle_model_specific_adjustments",
        "its first layer may have no attention",
    ),
    BackendRefusal(
        "NVIDIA's, AMD's, Intel's and Huawei's on another maker's GPU",
        _elsewhere,
        f"{ATTENTION}.attention_registry",
        "it is for GPUs of another maker",
    ),
    BackendRefusal(
        "other than `torch_native` on the CPU engine of this package",
        lambda server, backend: server.cpu_engine and backend.name != "torch_native",
        "sglang_dspark.cpu_engine.attention.VerifyBackend",
        "the CPU engine has torch_native only",
    ),
)


def _no_hidden_states(server: ResolvedServer) -> str | None:
    name = server.architecture
    if name is None or hands_over_hidden_states(name) is not False:
        return None
    return f"--model-path {server.cfg.model_path} ({name})"


def _v4_attention_groups(server: ResolvedServer) -> str | None:
    cfg = server.cfg
    if cfg.attn_dp_size <= 1 or not server.is_model(_V4) or cfg.tp_size == cfg.attn_dp_size * cfg.attn_cp_size:
        return None
    return f"--attn-dp-size {cfg.attn_dp_size} of --tp-size {cfg.tp_size}"


def _block_scaled_cache(server: ResolvedServer) -> str | None:
    given = server.cfg.kv_cache_dtype == "mxfp8" and server.is_other(_INKLING)
    return "--kv-cache-dtype mxfp8" if given else None


def _long_qsa_block(server: ResolvedServer) -> str | None:
    width = server.cfg.speculative_num_draft_tokens
    if width is None or not server.is_model(_QSA):
        return None
    from sglang.srt.layers.attention.qsa.config import parse_qsa_profile

    profile = parse_qsa_profile(server.model.hf_config)
    return f"--speculative-dspark-block-size {width - 1}" if width > profile.compress_ratio else None


SERVERS_REFUSED: Final = (
    ServerRefusal(
        "targets whose class hands no hidden states to a draft (Qwen2, GLM-4.5, Mixtral, Gemma 3 and most older ones)",
        _no_hidden_states,
        "sglang.srt.model_executor.model_runner_components.attention_backend_setup.configure_aux_hidden_state_capture",
        "SGLang's class of this target hands no hidden states to a draft",
        "serve another target, or this one without --speculative-algorithm",
    ),
    ServerRefusal(
        "attention data parallelism of DeepSeek-V4 with more than one rank a group",
        _v4_attention_groups,
        "sglang.srt.speculative.dspark_components.dspark_worker_v2.DSparkWorkerV2.__init__",
        "its draft's experts are summed over wrong ranks",
        "give both the same number",
    ),
    ServerRefusal(
        "`--kv-cache-dtype mxfp8` for other models than Inkling",
        _block_scaled_cache,
        f"{ATTENTION}.flashattention_backend.FlashAttentionBackend._mxfp8_sf_kwargs",
        "the model's attention brings no scales of its queries",
        "use --kv-cache-dtype fp8_e4m3",
    ),
    ServerRefusal(
        "blocks longer than Qwen's sparse attention compresses",
        _long_qsa_block,
        f"{ATTENTION}.qwen_sparse_attn_backend.QwenSparseAttnBackend._require_chain_speculation",
        "the anchor and its drafts must fit one compressed group",
        "use a draft with a shorter block",
    ),
)

# Tried in this order where another backend is advised.
ADVISED: Final = ("fa3", "trtllm_mha", "trtllm_mla", "flashinfer", "fa4", "triton", "dsv4", "torch_native")


def refusal(server: ResolvedServer, backend: Built) -> BackendRefusal | None:
    """Why a server cannot have an attention backend; None where it can."""
    return next((row for row in BACKENDS_REFUSED if row.holds(server, backend)), None)


def possible(server: ResolvedServer, backend: Built) -> list[str]:
    """Backends that a server could have in place of one, the best first."""
    advised = ("dsa",) if server.is_model(_DSA) and not backend.draft else ADVISED  # Such a model is trained with it.
    return [name for name in advised if refusal(server, backend._replace(name=name)) is None]


def refuse(server: ResolvedServer) -> None:
    """Refuse a server that SGLang would end after loading the weights.

    Raises:
        InputError: One line with what it is, why, what to do, and where SGLang shows it.
    """
    for one in SERVERS_REFUSED:
        if (given := one.given(server)) is not None:
            raise InputError(f"{given}: cannot be served: {one.why} ({short(one.shown)}); {one.remedy}")
    for backend in built(server):
        if (row := refusal(server, backend)) is not None:
            names = possible(server, backend)
            raise InputError(
                f"{option(backend.field)}: {backend.name} cannot serve here: {row.why} ({short(row.shown)}); "
                f"use {names[0] if names else 'another GPU'}"
            )


def short(symbol: str) -> str:
    """A symbol of SGLang from its last module on."""
    parts = symbol.split(".")
    first = next((i for i, part in enumerate(parts) if part.strip("_")[:1].isupper()), len(parts) - 1)
    return ".".join(parts[max(first - 1, 0) :])


def markdown() -> str:
    """The tables for people; ``docs/serving.md`` has them."""
    lines = ["| refused with | because | SGLang |", "| --- | --- | --- |"]
    lines += [f"| {row.name} | {row.why} | `{short(row.shown)}` |" for row in (*BACKENDS_REFUSED, *SERVERS_REFUSED)]
    return "\n".join(lines)
