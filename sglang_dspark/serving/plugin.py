"""Entry point ``sglang.srt.plugins``: what each process of SGLang gets from the plugin, and when."""

from __future__ import annotations

import logging
import os
import sys

from sglang_dspark.serving import hooks, launch, settings

logger = logging.getLogger(__name__)


def register() -> None:
    """Called by ``sglang.srt.plugins.load_plugins`` once a process.

    Without a policy a process gets the flags and nothing that changes what it does; on the CPU engine, also what that
    needs. SGLang logs whatever is raised here and starts all the same, so a process that cannot follow the policy that
    was asked for ends itself.
    """
    misfit = hooks.misfit(hooks.launch_hooks())
    if misfit is not None:
        # Nothing was asked, or the flags that ask are not there: SGLang refuses them by itself.
        logger.warning("sglang-dspark stays out: %s", misfit)
        return
    from sglang_dspark.serving import cpu

    cpu.register()
    _offer_flags()
    if settings.VARIABLE not in os.environ or not _is_scheduler():
        return
    try:
        hooks.install(hooks.policy_hooks())
    except Exception as error:  # Whatever it is, SGLang would log it and serve without the policy.
        print("sglang-dspark: error:", " ".join(str(error).splitlines()), file=sys.stderr, flush=True)
        sys.exit(2)


def _offer_flags() -> None:
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook

    register_resolution_hook("handle_speculative_decoding")(launch.resolve)
    hooks.enter(hooks.launch_hooks())  # Applied by SGLang, when all plugins have entered theirs.
    if "sglang.srt.entrypoints.engine" in sys.modules:
        launch.accept_engine_keywords(sys.modules["sglang.srt.entrypoints.engine"].Engine)


def _is_scheduler() -> bool:
    """Whether this process may run a scheduler: children of the launcher do, the launcher itself does not."""
    import multiprocessing

    return multiprocessing.parent_process() is not None
