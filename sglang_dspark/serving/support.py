"""Table of servers that can follow a policy: SGLang 0.5.23 by attention backend, model class and feature.

A policy steers by verifying fewer drafts of some requests than of others, so that the rows of a step are packed: each
request has its own number of them (``compact``). Attention that cuts the rows into equal blocks then reads tokens of
other requests. The tables say which code does what and name where SGLang shows it; ``tests/serving/test_support.py``
holds them against the installed SGLang. A server that cannot take packed rows verifies whole blocks (``static``), which
leaves a policy its block size, its flags and its advice to serve without speculation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from sglang_dspark.errors import InputError
from sglang_dspark.serving import refusals
from sglang_dspark.serving.refusals import short
from sglang_dspark.serving.resolved_server import ATTENTION, HOOKS, ResolvedServer, by, is_a, option

VARIABLE: Final = "SGLANG_RAGGED_VERIFY_MODE"

VerifyMode = Literal["compact", "static", "cap-accept"]
MODES: Final[tuple[VerifyMode, ...]] = ("compact", "static", "cap-accept")

# KV caches that every backend which takes packed rows takes too.
PLAIN: Final = ("auto", "bfloat16", "bf16", "fp8_e4m3")

# What an attention backend makes of packed rows: right with and without captured graphs, without them only, or wrong;
# or it verifies nothing, so that SGLang cannot serve with it (``refusals``).
Packed = Literal["graph", "eager", "wrong", "refused"]

ARCH: Final = "sglang.srt.configs.hybrid_arch"
RUNNER: Final = "sglang.srt.model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner"
WORKER: Final = "sglang.srt.speculative.dspark_components.dspark_worker_v2.DSparkWorkerV2"


class Backend(NamedTuple):
    """One attention backend as the target's.

    Attributes:
        names: As ``--attention-backend`` spells it.
        model: For which attention of the target the row holds.
        symbol: SGLang's class.
        flag: The class's ``supports_ragged_verify_graph``.
        packed: What it makes of packed rows.
        shown: Where SGLang shows it.
        why: For people.
    """

    names: tuple[str, ...]
    model: Literal["any", "MHA", "MLA"]
    symbol: str
    flag: bool
    packed: Packed
    shown: str
    why: str


_UNIFORM: Final = "it cuts the rows into blocks of equal length"
_VARLEN: Final = "it takes each request's own number of rows"

BACKENDS: Final = (
    Backend(
        ("fa3", "fa4"),
        "any",
        f"{ATTENTION}.flashattention_backend.FlashAttentionBackend",
        True,
        "graph",
        f"{ATTENTION}.flashattention_backend.FlashAttentionBackend.init_forward_metadata",
        _VARLEN,
    ),
    Backend(
        ("trtllm_mha",),
        "MHA",
        f"{ATTENTION}.trtllm_mha_backend.TRTLLMHAAttnBackend",
        True,
        "graph",
        f"{ATTENTION}.trtllm_mha_backend.TRTLLMHAAttnBackend.init_forward_metadata",
        f"{_VARLEN}; not on sm_90 and sm_120",
    ),
    Backend(
        ("trtllm_mla",),
        "MLA",
        f"{ATTENTION}.trtllm_mla_backend.TRTLLMMLABackend",
        True,
        "graph",
        f"{ATTENTION}.trtllm_mla_backend.TRTLLMMLABackend.forward_extend",
        _VARLEN,
    ),
    Backend(
        ("cutedsl_mla",),
        "MLA",
        f"{ATTENTION}.cutedsl_mla_backend.CuteDslMLABackend",
        True,
        "graph",
        f"{ATTENTION}.trtllm_mla_backend.TRTLLMMLABackend.forward_extend",
        _VARLEN,
    ),
    Backend(
        ("flashinfer",),
        "MLA",
        f"{ATTENTION}.flashinfer_mla_backend.FlashInferMLAAttnBackend",
        True,
        "graph",
        "sglang.srt.speculative.dflash_info.DFlashVerifyInput.generate_attn_arg_prefill",
        _VARLEN,
    ),
    Backend(
        ("flashinfer",),
        "MHA",
        f"{ATTENTION}.flashinfer_backend.FlashInferAttnBackend",
        False,
        "eager",
        f"{ATTENTION}.flashinfer_backend.FlashInferAttnBackend.init_forward_metadata_out_graph",
        "SGLang stops while it captures graphs",
    ),
    Backend(
        ("flashmla",),
        "MLA",
        f"{ATTENTION}.flashmla_backend.FlashMLABackend",
        True,  # Inherited, and not true of it.
        "wrong",
        f"{ATTENTION}.flashmla_backend.FlashMLABackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("dsv4",),
        "any",
        f"{ATTENTION}.deepseek_v4_backend.DeepseekV4AttnBackend",
        True,
        "graph",
        f"{ATTENTION}.deepseek_v4_backend.DeepseekV4AttnBackend._resolve_verify_layout",
        _VARLEN,
    ),
    Backend(
        ("triton",),
        "any",
        f"{ATTENTION}.triton_backend.TritonAttnBackend",
        False,
        "wrong",
        f"{ATTENTION}.triton_backend.TritonAttnBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("dsa", "nsa"),
        "any",
        f"{ATTENTION}.dsa_backend.DeepseekSparseAttnBackend",
        False,
        "wrong",
        f"{ATTENTION}.dsa_backend.DeepseekSparseAttnBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("aiter",),
        "any",
        f"{ATTENTION}.aiter_backend.AiterAttnBackend",
        False,
        "wrong",
        f"{ATTENTION}.aiter_backend.AiterAttnBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("qsa",),
        "any",
        f"{ATTENTION}.qwen_sparse_attn_backend.QwenSparseAttnBackend",
        False,
        "wrong",
        f"{ATTENTION}.qwen_sparse_attn_backend.QwenSparseAttnBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("intel_xpu",),
        "any",
        f"{ATTENTION}.xpu_backend.XPUAttentionBackend",
        False,
        "wrong",
        f"{ATTENTION}.xpu_backend.XPUAttentionBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("intel_amx",),
        "any",
        f"{ATTENTION}.intel_amx_backend.IntelAMXAttnBackend",
        False,
        "wrong",
        f"{ATTENTION}.intel_amx_backend.IntelAMXAttnBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("wave",),
        "any",
        f"{ATTENTION}.wave_backend.WaveAttnBackend",
        False,
        "wrong",
        f"{ATTENTION}.wave_backend.WaveAttnBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("ascend",),
        "any",
        "sglang.srt.hardware_backend.npu.attention.ascend_backend.AscendAttnBackend",
        False,
        "wrong",
        "sglang.srt.hardware_backend.npu.attention.ascend_backend.AscendAttnBackend.init_forward_metadata",
        _UNIFORM,
    ),
    Backend(
        ("llada2_cfg_flashinfer",),
        "MHA",
        f"{ATTENTION}.llada2_cfg_flashinfer_backend.LLaDA2CFGFlashInferAttnBackend",
        False,
        "wrong",
        f"{ATTENTION}.llada2_cfg_flashinfer_backend.LLaDA2CFGFlashInferAttnBackend",
        "it is for block diffusion",
    ),
    Backend(
        ("minicpm_flashattn", "minicpm_flashinfer"),
        "any",
        f"{ATTENTION}.minicpm.backend.MiniCPMSparseBackend",
        False,
        "refused",
        f"{ATTENTION}.minicpm.backend.MiniCPMSparseBackend.init_forward_metadata",
        "it has no form for verification",
    ),
    Backend(
        ("flex_attention",),
        "any",
        f"{ATTENTION}.torch_flex_backend.TorchFlexAttnBackend",
        False,
        "refused",
        f"{ATTENTION}.torch_flex_backend.TorchFlexAttnBackend.init_forward_metadata",
        "it has no form for verification",
    ),
    Backend(
        ("torch_native",),
        "any",
        f"{ATTENTION}.torch_native_backend.TorchNativeAttnBackend",
        False,
        "refused",
        f"{ATTENTION}.torch_native_backend.TorchNativeAttnBackend.init_forward_metadata",
        "it has no form for verification",
    ),
    Backend(
        ("hpc_ops",),
        "MHA",
        f"{ATTENTION}.hpc_ops_backend.HPCOpsAttnBackend",
        False,
        "refused",
        f"{ATTENTION}.attention_registry.create_hpc_ops_backend",
        "SGLang refuses speculative decoding with it",
    ),
)

# In place of ``torch_native`` on the CPU engine (``sglang_dspark.cpu_engine``).
CPU_BACKEND: Final = Backend(
    ("torch_native",),
    "any",
    "sglang_dspark.cpu_engine.attention.VerifyBackend",
    False,
    "eager",
    "sglang_dspark.cpu_engine.attention.VerifyBackend.init_forward_metadata",
    "on the CPU engine of this package, where nothing is captured",
)

# Entered into SGLang by the GPU check (``gpu_check``), for a GPU without compiled attention packages.
CHECK_BACKEND: Final = Backend(
    ("dspark_triton",),
    "MHA",
    "sglang_dspark.gpu_check.triton_ragged.RaggedTritonBackend",
    True,
    "graph",
    "sglang_dspark.gpu_check.triton_ragged.RaggedTritonBackend.init_forward_metadata",
    "of this package's GPU check; it takes each request's own number of rows",
)


class ModelClass(NamedTuple):
    """Models whose layers affect packed rows beside the attention backend.

    Attributes:
        name: For people.
        detect: Takes SGLang's ``ModelConfig``.
        symbol: SGLang's class for these layers.
        flag: Its ``supports_ragged_verify_graph``; None where it has none or another backend's.
        packed: Whether packed rows are right in it.
        shown: Where SGLang shows it.
        why: For people.
    """

    name: str
    detect: Callable[[Any], bool]
    symbol: str
    flag: bool | None
    packed: bool
    shown: str
    why: str


MODEL_CLASSES: Final = (
    ModelClass(
        "gated delta layers (Qwen3-Next, Qwen3.5)",
        by(f"{ARCH}.hybrid_gdn_config"),
        f"{ATTENTION}.linear.gdn_backend.GDNAttnBackend",
        False,
        False,
        f"{ATTENTION}.linear.gdn_backend.GDNAttnBackend.forward_extend",
        _UNIFORM.replace("it cuts", "they cut"),
    ),
    ModelClass(
        "short convolutions of Inkling",
        is_a("sglang.srt.configs.inkling.InklingModelConfig", "hf_text_config"),
        f"{ATTENTION}.linear.inkling_sconv_backend.InklingShortConvHybridAttnBackend",
        None,  # The attention backend's, and not true of the convolutions.
        False,
        f"{ATTENTION}.linear.inkling_sconv_backend.InklingShortConvAttnBackend._refresh_extend_metadata",
        _UNIFORM.replace("it cuts", "they cut"),
    ),
    ModelClass(
        "Mamba and short convolution layers (Nemotron-H, Falcon-H1, Granite 4, LFM2, ZAYA)",
        by(f"{ARCH}.mamba2_config"),
        f"{ATTENTION}.hybrid_linear_attn_backend.Mamba2AttnBackend",
        False,
        False,
        f"{ATTENTION}.mamba.mamba.MambaMixer2.forward",
        _UNIFORM.replace("it cuts", "they cut"),
    ),
    ModelClass(
        "lightning attention (Ling, Ring, MiniCPM hybrids)",
        by(f"{ARCH}.hybrid_lightning_config"),
        f"{ATTENTION}.linear.lightning_backend.LightningAttentionBackend",
        False,
        False,
        f"{ATTENTION}.linear.lightning_backend.LightningAttentionBackend.forward_extend",
        "its graphs do not take packed rows",
    ),
    ModelClass(
        "Kimi delta attention (Kimi-Linear, Kimi-K3, GLM-5 Next)",
        by(f"{ARCH}.hybrid_kda_config"),
        f"{ATTENTION}.linear.kda_backend.KDAAttnBackend",
        True,
        True,
        f"{ATTENTION}.linear.kda_backend.KDAAttnBackend.forward_extend",
        "it scatters the rows by each request's own number",
    ),
    ModelClass(
        "linear attention that another package registered",
        by(f"{ARCH}.linear_attn_model_spec"),
        "sglang.srt.configs.linear_attn_model_registry.get_linear_attn_config",
        None,
        False,
        "sglang.srt.configs.linear_attn_model_registry.get_linear_attn_config",
        "it is not known to take packed rows",
    ),
    ModelClass(
        "sparse attention of MiniMax-M3",
        by("sglang.srt.configs.model_config.is_minimax_sparse", "hf_config"),
        f"{ATTENTION}.minimax_sparse_backend.MiniMaxHybridAttnBackend",
        False,
        False,
        f"{ATTENTION}.minimax_sparse_backend.MiniMaxSparseAttnBackend.init_forward_metadata_out_graph",
        _UNIFORM,
    ),
    ModelClass(
        "hybrid attention of dots 3",
        is_a("sglang.srt.configs.dots3.Dots3Config", "hf_text_config"),
        f"{ATTENTION}.dots_hybrid_backend.DotsHybridAttnBackend",
        False,
        False,
        f"{ATTENTION}.dots_hybrid_backend.DotsHybridAttnBackend",
        "its graphs do not take packed rows",
    ),
    ModelClass(
        "Engram (DeepSeek-V4.1)",
        lambda model: bool(model.use_engram),
        "sglang.srt.layers.engram.EngramHasher",
        None,
        False,
        "sglang.srt.layers.engram.EngramHasher.forward",
        "it expects one equal block of every request",
    ),
)


class Feature(NamedTuple):
    """A flag, a variable or a GPU that excludes packed rows.

    Attributes:
        name: For people.
        given: The server's flag or property that it applies to, as the operator wrote it; None where there is none.
        fields: The flags that ``given`` reads, by SGLang's field.
        shown: Where SGLang refuses it or takes whole blocks for granted; where this package does.
        why: For people.
        only_compact: ``cap-accept``, which verifies whole blocks, is not excluded.
    """

    name: str
    given: Callable[[ResolvedServer], str | None]
    fields: tuple[str, ...]
    shown: str
    why: str
    only_compact: bool = False


def _flag(*fields: str) -> Callable[[ResolvedServer], str | None]:
    """The first of several flags that is set."""

    def given(server: ResolvedServer) -> str | None:
        return next((option(field) for field in fields if getattr(server.cfg, field)), None)

    return given


def _above_one(field: str) -> Callable[[ResolvedServer], str | None]:
    def given(server: ResolvedServer) -> str | None:
        value = getattr(server.cfg, field)
        return f"{option(field)} {value}" if value is not None and value > 1 else None

    return given


def _padding(server: ResolvedServer) -> str | None:
    return "--disable-cuda-graph-padding" if server.cfg.disable_cuda_graph_padding and server.captures else None


def _xqa(server: ResolvedServer) -> bool:
    """Whether ``trtllm_mha`` decodes by kernels that take equal blocks."""
    return server.major in (9, 12)


def _trtllm_xqa(server: ResolvedServer) -> str | None:
    if server.verify_backend != "trtllm_mha" or not _xqa(server):
        return None
    return f"{option(server.verify_field)} trtllm_mha on sm_{server.major}0"


def _v41_disaggregated(server: ResolvedServer) -> str | None:
    mode = server.cfg.disaggregation_mode
    if server.model is None or mode == "null":
        return None
    is_v41 = getattr(server.model.hf_config, "model_type", None) == "deepseek_v41"
    return f"--disaggregation-mode {mode} with DeepSeek-V4.1" if is_v41 else None


def _prefill_only(server: ResolvedServer) -> str | None:
    return "--disaggregation-mode prefill" if server.cfg.disaggregation_mode == "prefill" else None


def _m3_nvfp4(server: ResolvedServer) -> str | None:
    return "--quantization minimax_m3_nvfp4" if server.cfg.quantization == "minimax_m3_nvfp4" else None


def _replay(server: ResolvedServer) -> str | None:
    cfg = server.cfg
    if not cfg.enable_linear_replayssm_spec or cfg.linear_attn_verify_backend in ("triton", "nv_cutedsl"):
        return None
    return f"--enable-linear-replayssm-spec with --linear-attn-verify-backend {cfg.linear_attn_verify_backend}"


def _npu(server: ResolvedServer) -> str | None:
    return f"--device {server.cfg.device}" if str(server.cfg.device).startswith("npu") else None


def _online_compress(server: ResolvedServer) -> str | None:
    from sglang.srt.environ import envs

    both = envs.SGLANG_OPT_USE_ONLINE_COMPRESS.get() and envs.SGLANG_EXPERIMENTAL_ONLINE_C128_MTP.get()
    return envs.SGLANG_EXPERIMENTAL_ONLINE_C128_MTP.name if both and server.verify_backend == "dsv4" else None


FEATURES: Final = (
    Feature(
        "LoRA",
        _flag("enable_lora", "lora_paths"),
        ("enable_lora", "lora_paths"),
        f"{HOOKS}.lora_hook.check_lora_speculative_compatibility",
        "adapters take equal blocks",
    ),
    Feature(
        "two-batch overlap",
        _flag("enable_two_batch_overlap"),
        ("enable_two_batch_overlap",),
        f"{RUNNER}.__init__",
        "a batch is cut between equal blocks",
        only_compact=True,
    ),
    Feature(
        "graphs without padding",
        _padding,
        ("disable_cuda_graph_padding",),
        f"{RUNNER}.__init__",
        "packed rows are padded to a captured number",
        only_compact=True,
    ),
    Feature(
        "trtllm_mha on sm_90 and sm_120",
        _trtllm_xqa,
        (),
        f"{ATTENTION}.trtllm_mha_backend.TRTLLMHAAttnBackend._assert_ragged_verify_supported",
        "its kernels there take equal blocks",
        only_compact=True,
    ),
    Feature(
        "attention data parallelism, with MegaMoE and Mori too (SGLang refuses DeepEP)",
        _above_one("attn_dp_size"),
        ("attn_dp_size",),
        f"{HOOKS}.speculative_hook._handle_dspark",
        "its groups choose no graph of their own, and a policy decides for one group",
    ),
    Feature(
        "pipeline parallelism",
        _above_one("pp_size"),
        ("pp_size",),
        f"{HOOKS}.speculative_hook._handle_dspark",
        "SGLang has it on prefill servers only, which verify nothing",
    ),
    Feature(
        "prefill side of PD disaggregation",
        _prefill_only,
        ("disaggregation_mode",),
        f"{WORKER}.__init__",
        "such a server verifies nothing",
    ),
    Feature(
        "PD disaggregation of DeepSeek-V4.1",
        _v41_disaggregated,
        ("disaggregation_mode",),
        f"{HOOKS}.deepseek_v4_hook.validate_deepseek_v41_features",
        "SGLang has it for whole blocks only",
    ),
    Feature(
        "context parallelism of attention",
        _above_one("attn_cp_size"),
        ("attn_cp_size",),
        f"{ATTENTION}.deepseek_v4_backend.DeepseekV4AttnBackend._resolve_verify_layout",
        "SGLang has it for whole blocks only",
        only_compact=True,
    ),
    Feature(
        "context parallelism of decoding (Kimi-K3)",
        _above_one("dcp_size"),
        ("dcp_size",),
        f"{HOOKS}.model_overrides.kimi_k3._kimi_k3_overrides",
        "SGLang has it for whole blocks only",
    ),
    Feature(
        "MiniMax-M3.1 in NVFP4",
        _m3_nvfp4,
        ("quantization",),
        f"{HOOKS}.model_overrides.minimax_m3._minimax_m3_overrides",
        "SGLang has it for whole blocks only",
    ),
    Feature(
        "replay of linear attention states with another kernel than triton or nv_cutedsl",
        _replay,
        ("enable_linear_replayssm_spec", "linear_attn_verify_backend"),
        f"{HOOKS}.attention_hook.handle_linear_attn_backend",
        "other kernels take equal blocks",
    ),
    Feature(
        "online compression of DeepSeek-V4",
        _online_compress,
        (),
        f"{ATTENTION}.dsv4.online_c128_mtp.OnlineC128MTPController.enabled",
        "SGLang has it for whole blocks only",
        only_compact=True,
    ),
    Feature(
        "the NVIDIA megakernel",
        _flag("enable_nvidia_megakernel"),
        ("enable_nvidia_megakernel",),
        "sglang.srt.kernel_plugins.nvidia.binding.handle_nvidia_megakernel",
        "it is refused with packed rows unless its package lists them",
    ),
    Feature(
        "the AMD monokernel",
        _flag("enable_amd_monokernel"),
        ("enable_amd_monokernel",),
        "sglang.srt.kernel_plugins.amd.binding.handle_amd_monokernel",
        "it is refused with packed rows unless its package lists them",
    ),
    Feature(
        "NPUs",
        _npu,
        ("device",),
        "sglang.srt.hardware_backend.npu.attention.ascend_backend.AscendAttnBackend",
        "its attention takes equal blocks",
    ),
    Feature(
        "block verification",
        _flag("speculative_use_block_verification"),
        ("speculative_use_block_verification",),
        f"{WORKER}.__init__",
        "it accepts by the probabilities of whole blocks",
    ),
    Feature(
        "Ray",
        _flag("use_ray"),
        ("use_ray",),
        "sglang_dspark.serving.plugin.register",
        "its schedulers start where no policy reaches them",
    ),
)


class Obstacle(NamedTuple):
    """A property of a server that excludes packed rows.

    Attributes:
        what: In the operator's words: the flag, variable or model.
        only_compact: ``cap-accept`` is possible all the same.
    """

    what: str
    why: str
    only_compact: bool


class Choice(NamedTuple):
    """The chosen verify mode, and the obstacles to packed rows."""

    mode: VerifyMode
    obstacles: tuple[Obstacle, ...] = ()


def describe(server_args: Any) -> ResolvedServer:
    """The server that SGLang's flags make, once its attention backends are resolved."""
    from sglang.srt.arg_groups.overrides import model_config_of, resolving_view, use_mla_backend
    from sglang.srt.runtime_context import get_platform

    from sglang_dspark.cpu_engine import early

    cfg, model, mla = resolving_view(server_args), model_config_of(server_args), use_mla_backend(server_args)
    return ResolvedServer(cfg, model, mla, get_platform(), early.in_use() and str(cfg.device) == "cpu")


def backend(server: ResolvedServer, name: str | None = None) -> Backend | None:
    """The table's row for an attention backend, that of the server's target verification by default.

    Returns:
        None for a backend that is not SGLang's own.
    """
    name, kind = name or server.verify_backend, "MLA" if server.mla else "MHA"
    if server.cpu_engine and name in CPU_BACKEND.names:
        return CPU_BACKEND
    return next((row for row in (*BACKENDS, CHECK_BACKEND) if name in row.names and row.model in ("any", kind)), None)


def _packs(server: ResolvedServer, name: str) -> bool:
    """Whether an attention backend takes packed rows on this server."""
    row = backend(server, name)
    return row is not None and (row.packed == "graph" or (row.packed == "eager" and not server.captures))


def obstacles(server: ResolvedServer) -> tuple[Obstacle, ...]:
    """All that excludes packed rows, the operator's flags first."""
    excluding = [
        Obstacle(given, row.why, row.only_compact) for row in FEATURES if (given := row.given(server)) is not None
    ]
    if server.model is not None:
        excluding += [
            Obstacle(row.name, row.why, True) for row in MODEL_CLASSES if row.detect(server.model) and not row.packed
        ]
    if not _packs(server, server.verify_backend):
        row = backend(server)
        why = "it is not known to take packed rows" if row is None else row.why
        instead = "" if excluding else _instead(server)
        excluding.append(Obstacle(f"{option(server.verify_field)} {server.verify_backend}", why + instead, True))
    return tuple(excluding)


def _instead(server: ResolvedServer) -> str:
    """The backend that takes packed rows on this server, as SGLang would let it be chosen."""
    if server.cfg.kv_cache_dtype not in PLAIN:
        return ""
    names = refusals.possible(server, refusals.built(server)[0])
    name = next((one for one in names if _packs(server, one) and not (one == "trtllm_mha" and _xqa(server))), None)
    return f"; use {name} to steer" if name else ""


def check_mode(requested: str | None) -> None:
    """Refuse an unknown verify mode."""
    if requested is not None and requested not in MODES:
        raise InputError(f"{VARIABLE}: {requested!r} is not valid; use {', '.join(MODES)}, or unset it")


def choose(server: ResolvedServer, requested: str | None, more: Sequence[Obstacle] = ()) -> Choice:
    """Choose how a server verifies that is to follow a policy. ``cap-accept`` is never chosen, only obeyed.

    Args:
        requested: The operator's mode (:data:`VARIABLE`); None leaves it to the table.
        more: Obstacles that are not in the flags.

    Raises:
        InputError: SGLang could not serve with these flags, or the operator's choice is not possible here.
    """
    check_mode(requested)
    refusals.refuse(server)
    if requested == "static":
        return Choice("static")
    excluding = (*obstacles(server), *more)
    if requested is None:
        return Choice("static" if excluding else "compact", excluding)
    if hindering := [one for one in excluding if requested == "compact" or not one.only_compact]:
        one = hindering[0]
        raise InputError(
            f"{VARIABLE}: {requested} is not possible with {one.what} ({one.why}); "
            "unset it to verify whole blocks, or leave the other out"
        )
    return Choice("compact" if requested == "compact" else "cap-accept")


def markdown() -> str:
    """The tables for people; ``docs/serving.md`` has them."""
    verdicts = {"graph": "yes", "eager": "without graphs only", "wrong": "no", "refused": "SGLang refuses it"}
    lines = ["| attention backend of the target | follows lengths | because | SGLang |", "| --- | --- | --- | --- |"]
    for row in (*BACKENDS, CPU_BACKEND, CHECK_BACKEND):
        names = ", ".join(f"`{name}`" for name in row.names) + ("" if row.model == "any" else f" ({row.model})")
        lines.append(f"| {names} | {verdicts[row.packed]} | {row.why} | `{short(row.shown)}` |")
    lines += ["", "| layers of the target | follows lengths | because | SGLang |", "| --- | --- | --- | --- |"]
    for model in MODEL_CLASSES:
        lines.append(f"| {model.name} | {'yes' if model.packed else 'no'} | {model.why} | `{short(model.shown)}` |")
    lines += ["", "| whole blocks only with | because | shown by |", "| --- | --- | --- |"]
    lines += [f"| {row.name} | {row.why} | `{short(row.shown)}` |" for row in FEATURES]
    return "\n".join([*lines, "", refusals.markdown()])
