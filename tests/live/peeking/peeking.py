"""An SGLang plugin that breaks DSPARK on purpose: it verifies the first draft if its token is even, and else nothing.

It looks at the token whose verification it decides about, which no lossless scheduler may do.
"""

from __future__ import annotations

from typing import Any

import torch


def register() -> None:
    from sglang_dspark.serving import engine

    drafted: dict[str, torch.Tensor] = {}
    propose = engine.propose

    def remember(*arguments: Any, **keywords: Any) -> Any:
        proposal = propose(*arguments, **keywords)
        drafted["tokens"] = proposal.draft_block.draft_tokens
        return proposal

    def peek(*_: Any) -> torch.Tensor:
        return (drafted["tokens"][:, 0] % 2 == 0).to(torch.int32)

    engine.propose = remember
    engine.verify_lengths = peek
