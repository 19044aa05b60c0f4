"""The GPU check's own SGLang plugin.

It registers the attention backend, replaces code of packages that are not installed, and accepts
``{"dspark_check_prefill_interval": N}`` on ``/set_internal_state``, so that a stage can change a running server's
interval.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Final

BACKEND: Final = "dspark_triton"
INTERVAL: Final = "dspark_check_prefill_interval"
DUAL_GEMM: Final = "sglang.srt.layers.dual_gemm.DualGemm._select_mode"
CONTROLLER: Final = "sglang.srt.managers.scheduler_components.internal_state.SchedulerInternalStateController"


def register() -> None:
    """Register everything; SGLang calls this once per process."""
    from sglang.srt.arg_groups import choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    choices.add_attention_backend_choices([BACKEND])

    @register_attention_backend(BACKEND)
    def make(runner: Any) -> Any:
        from sglang_dspark.gpu_check.triton_ragged import RaggedTritonBackend

        return RaggedTritonBackend(runner)

    HookRegistry.register(f"{CONTROLLER}._update_handlers", update_handlers, HookType.AFTER)
    if importlib.util.find_spec("cutlass") is None:
        HookRegistry.register(DUAL_GEMM, no_dual_gemm, HookType.REPLACE)


def no_dual_gemm(layer: Any, gate_up_proj: Any, hidden_size: int) -> None:
    """Replace ``_select_mode``, which imports CUTLASS; None keeps projections and activation as separate kernels."""


def update_handlers(handlers: dict[str, Any], controller: Any) -> dict[str, Any]:
    """Extend ``_update_handlers`` by the prefill interval, which the scheduler reads when a prefill arms it."""
    from sglang.srt.managers.scheduler_components.internal_state import UpdateRejected, _UpdateHandler

    def check(key: str, value: Any) -> None:
        if not (value >= 0 and value == int(value)):
            raise UpdateRejected(f"{key} must be a number of steps, got {value}.")

    def interval(key: str, value: Any) -> None:
        controller.scheduler.prefill_decode_interval = int(value)

    return handlers | {INTERVAL: _UpdateHandler(check, interval)}
