"""Entry point ``sglang.srt.platforms``: runs in every process, before SGLang chooses its device."""

from __future__ import annotations


def activate() -> None:
    """Prepares the CPU engine where it was asked for. Offers no platform of its own, so it returns None."""
    from sglang_dspark.cpu_engine import early

    early.prepare()
