"""Servers by their resolved flags, without SGLang resolving any: an H100 with FlashAttention 3 unless changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sglang_dspark.serving import serve_check
from sglang_dspark.serving.resolved_server import ResolvedServer

GAMMA = 7


def gpu(name: str) -> SimpleNamespace:
    """SGLang's facts about a GPU of ``serve_check.GPUS``."""
    return SimpleNamespace(**serve_check._facts(serve_check.GPUS[name]))


H100 = gpu("h100")

CFG: dict[str, Any] = {
    "attention_backend": "fa3",
    "attn_cp_size": 1,
    "attn_dp_size": 1,
    "cuda_graph_config": SimpleNamespace(decode=SimpleNamespace(backend="full", bs=[1, 2])),
    "dcp_size": 1,
    "decode_attention_backend": None,
    "device": "cuda",
    "disable_cuda_graph_padding": False,
    "disaggregation_mode": "null",
    "download_dir": None,
    "dsa_decode_backend": None,
    "dsa_prefill_backend": None,
    "enable_amd_monokernel": False,
    "enable_linear_replayssm_spec": False,
    "enable_lora": None,
    "enable_nvidia_megakernel": False,
    "enable_two_batch_overlap": False,
    "kv_cache_dtype": "auto",
    "linear_attn_verify_backend": None,
    "lora_paths": None,
    "max_running_requests": 48,
    "model_path": "/target",
    "pp_size": 1,
    "prefill_attention_backend": None,
    "quantization": None,
    "speculative_algorithm": "DSPARK",
    "speculative_attention_mode": "prefill",
    "speculative_draft_attention_backend": None,
    "speculative_draft_model_path": None,
    "speculative_draft_model_revision": None,
    "speculative_dspark_align_verify_tokens_to_graph_tier": False,
    "speculative_dspark_confidence_sts_path": None,
    "speculative_dspark_sps_table_path": None,
    "speculative_num_draft_tokens": GAMMA + 1,
    "speculative_use_block_verification": False,
    "tp_size": 1,
    "use_ray": False,
}


def server(
    mla: bool = False, model: Any = None, platform: Any = H100, cpu_engine: bool = False, **flags: Any
) -> ResolvedServer:
    """A server with other flags than :data:`CFG`."""
    return ResolvedServer(SimpleNamespace(**(CFG | flags)), model, mla, platform, cpu_engine)
