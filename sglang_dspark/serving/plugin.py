"""Entry point ``sglang.srt.plugins``: what each process of SGLang gets from the plugin, and when."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from sglang_dspark.errors import end
from sglang_dspark.serving import hooks, launch, settings


def register() -> None:
    """Called by ``sglang.srt.plugins.load_plugins`` once a process.

    Without a policy a process gets the flags and nothing that changes what it does; on the CPU engine, also what that
    needs. With one, a process that has imported SGLang's scheduler gets one hook, at the start of a scheduler, which
    installs the others: so the detokenizer, the tokenizers and the launcher get none of them.
    """
    _offer_flags()
    if settings.VARIABLE in os.environ and hooks.SCHEDULER in sys.modules:
        _install(hooks.scheduler_hooks)
    from sglang_dspark import cpu_engine

    cpu_engine.register()


def start_scheduler(*arguments: Any, **keywords: Any) -> None:
    """Before ``configure_scheduler_process``, in a scheduler's process only: what follows a policy, and the kernels."""
    # At once: two hooks of one target must be there when it is patched.
    _install(_asked_for)


def _asked_for() -> tuple[hooks.Hook, ...]:
    """The hooks of the policy and of the kernels, where the operator asked for them."""
    policy = hooks.policy_hooks() if settings.current() is not None else ()
    return policy + (hooks.agreement_hooks() if settings.kernels() == "upstream" else hooks.kernel_hooks())


def _install(wanted: Callable[[], tuple[hooks.Hook, ...]]) -> None:
    """Installs hooks or ends the process: SGLang would log what a plugin raises and serve without the policy."""
    try:
        hooks.install(wanted())
    except Exception as error:
        end("sglang-dspark", error)


def _offer_flags() -> None:
    """Whatever SGLang this is: who asks for a policy is then told whether it is supported (``launch.resolve``)."""
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook

    register_resolution_hook("handle_speculative_decoding")(launch.resolve)
    hooks.enter(hooks.launch_hooks())  # Applied by SGLang, when all plugins have entered theirs.
    if "sglang.srt.entrypoints.engine" in sys.modules:
        launch.accept_engine_keywords(sys.modules["sglang.srt.entrypoints.engine"].Engine)
