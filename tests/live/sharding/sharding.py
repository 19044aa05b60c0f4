"""An SGLang plugin that shares a dense draft's vocabulary among ranks, as SGLang does for MiniMax and DeepSeek-V4."""

from __future__ import annotations


def register() -> None:
    from sglang.srt.models.dspark import DSparkDraftMixin

    DSparkDraftMixin.supports_vocab_parallel_draft_logits = True
