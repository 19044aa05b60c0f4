"""Entry point ``sglang.srt.plugins``: what each process of SGLang gets from the plugin, and when."""

from __future__ import annotations

import os
import sys

from sglang_dspark.errors import end
from sglang_dspark.serving import hooks, launch, settings


def register() -> None:
    """Called by ``sglang.srt.plugins.load_plugins`` once a process.

    Without a policy a process gets the flags and nothing that changes what it does; on the CPU engine, also what that
    needs. SGLang logs whatever is raised here and starts all the same, so a process that cannot follow the policy that
    was asked for ends itself.
    """
    _offer_flags()
    if settings.VARIABLE in os.environ and _is_scheduler():
        try:
            wanted = hooks.policy_hooks() if settings.current() is not None else ()
            if settings.kernels() != "upstream":
                wanted += hooks.kernel_hooks()
            # At once: two hooks of one target must be there when it is patched.
            hooks.install(wanted)
        except Exception as error:  # Whatever it is, SGLang would log it and serve without the policy.
            end("sglang-dspark", error)
    from sglang_dspark.serving import cpu

    cpu.register()


def _offer_flags() -> None:
    """Whatever SGLang this is: who asks for a policy is then told whether it is supported (``launch.resolve``)."""
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook

    register_resolution_hook("handle_speculative_decoding")(launch.resolve)
    hooks.enter(hooks.launch_hooks())  # Applied by SGLang, when all plugins have entered theirs.
    if "sglang.srt.entrypoints.engine" in sys.modules:
        launch.accept_engine_keywords(sys.modules["sglang.srt.entrypoints.engine"].Engine)


def _is_scheduler() -> bool:
    """Whether this process may run a scheduler: children of the launcher do, the launcher itself does not."""
    import multiprocessing

    return multiprocessing.parent_process() is not None
