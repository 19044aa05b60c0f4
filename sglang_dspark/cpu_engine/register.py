"""Register the CPU engine with SGLang: two official registrations and the hooks of ``serving.hooks``."""

from __future__ import annotations

import logging
from typing import Any

from sglang_dspark.cpu_engine import early

logger = logging.getLogger(__name__)


def register() -> None:
    """Once a process, from the general plugin; nothing where the stand-ins are not in use."""
    if not early.in_use():
        return
    from sglang.srt.arg_groups import choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    from sglang_dspark.serving import hooks

    if found := hooks.misfit(hooks.cpu_hooks()):
        logger.warning("the CPU engine of sglang-dspark stays out: %s", found)
        return
    hooks.install(hooks.cpu_hooks())
    choices.add_draft_attention_backend_choices(["torch_native"])

    @register_attention_backend("torch_native")
    def make(runner: Any) -> Any:
        from sglang_dspark.cpu_engine.attention import VerifyBackend

        return VerifyBackend(runner)
