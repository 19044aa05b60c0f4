"""Entry point ``sglang.srt.plugins``: installs the plugin in a process of SGLang."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from sglang_dspark.cpu_engine import early
from sglang_dspark.serving import hooks, launch, settings

logger = logging.getLogger(__name__)


def register() -> None:
    """Called by ``sglang.srt.plugins.load_plugins`` once a process.

    Without a policy a process gets the flags and nothing that changes its behaviour, and on the CPU engine what that
    needs. With one, a process that has imported SGLang's scheduler gets one hook, at the start of a scheduler, which
    installs the others: the detokenizer, the tokenizers and the launcher get none of them.
    """
    _add_flags()
    if settings.VARIABLE in os.environ and hooks.SCHEDULER in sys.modules:
        hooks.install_or_end(hooks.scheduler_hooks)
    if early.in_use():
        register_cpu_engine()


def _add_flags() -> None:
    """Add the flags on any version of SGLang; an unsupported one is refused with a policy (``launch.resolve``)."""
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook

    register_resolution_hook("handle_speculative_decoding")(launch.resolve)
    hooks.enter(hooks.launch_hooks())  # Applied by SGLang, when all plugins have entered theirs.
    if "sglang.srt.entrypoints.engine" in sys.modules:
        launch.accept_engine_keywords(sys.modules["sglang.srt.entrypoints.engine"].Engine)


def register_cpu_engine() -> None:
    """Register the CPU engine: its attention backend, SGLang's choice of it for drafts, and its hooks."""
    from sglang.srt.arg_groups import choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    if misfit := hooks.misfit(hooks.cpu_hooks()):
        logger.warning("the CPU engine of sglang-dspark is not registered: %s", misfit)
        return
    hooks.install(hooks.cpu_hooks())
    choices.add_draft_attention_backend_choices(["torch_native"])

    @register_attention_backend("torch_native")
    def make(runner: Any) -> Any:
        from sglang_dspark.cpu_engine.attention import VerifyBackend

        return VerifyBackend(runner)
