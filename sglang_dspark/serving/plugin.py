"""Entry point ``sglang.srt.plugins``: what each process of SGLang gets from the plugin, and when."""

from __future__ import annotations

import os
import sys
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
        _install(hooks.scheduler_hooks())
    from sglang_dspark.serving import cpu

    cpu.register()


def start_scheduler(*arguments: Any, **keywords: Any) -> None:
    """Before ``configure_scheduler_process``, in a scheduler's process only: what follows a policy, and the kernels."""
    wanted: tuple[hooks.Hook, ...] = ()
    try:
        if settings.current() is not None:
            wanted += hooks.policy_hooks()
        if settings.kernels() != "upstream":
            wanted += hooks.kernel_hooks()
    except Exception as error:
        end("sglang-dspark", error)
    # At once: two hooks of one target must be there when it is patched.
    _install(wanted)


def _install(wanted: tuple[hooks.Hook, ...]) -> None:
    """SGLang logs what a plugin raises and serves all the same, so a process that cannot follow ends itself."""
    try:
        hooks.install(wanted)
    except Exception as error:
        end("sglang-dspark", error)


def _offer_flags() -> None:
    """Whatever SGLang this is: who asks for a policy is then told whether it is supported (``launch.resolve``)."""
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook

    register_resolution_hook("handle_speculative_decoding")(launch.resolve)
    hooks.enter(hooks.launch_hooks())  # Applied by SGLang, when all plugins have entered theirs.
    if "sglang.srt.entrypoints.engine" in sys.modules:
        launch.accept_engine_keywords(sys.modules["sglang.srt.entrypoints.engine"].Engine)
