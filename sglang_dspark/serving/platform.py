"""Entry point ``sglang.srt.platforms``: runs in every process, before SGLang chooses its device."""

from __future__ import annotations


def activate() -> None:
    """Prepare the CPU engine where it is requested; return None, as there is no platform to offer."""
    from sglang_dspark.cpu_engine import early

    early.prepare()
