"""SGLang's server whose processes are forked, not spawned: none but the first imports SGLang, which takes 15 s of CPU.

Run with the flags of ``sglang.launch_server``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy

from sglang.srt import plugins


def _load_plugins_again() -> None:
    """Let a forked process load its plugins, as a spawned one does: which hooks it gets depends on the process."""
    plugins._plugins_loaded = False


if __name__ == "__main__":
    os.register_at_fork(after_in_child=_load_plugins_again)
    multiprocessing.set_start_method("fork")
    # SGLang sets "spawn" before it starts its processes.
    multiprocessing.set_start_method = lambda *_, **__: None
    runpy.run_module("sglang.launch_server", run_name="__main__")
