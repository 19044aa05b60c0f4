"""An SGLang plugin that breaks DSPARK on purpose: a block is verified as far as the drafts after it have even tokens.

SGLang draws the token after the verified prefix by testing the next draft, accepted or not. So whether draft k is
verified may depend on its own token there, and must not depend on the token of draft k + 1, which this looks at.
"""

from __future__ import annotations

from typing import Any

import torch


def register() -> None:
    from sglang_dspark.serving import step_hooks

    drafted: dict[str, torch.Tensor] = {}
    propose = step_hooks.propose

    def remember(*arguments: Any, **keywords: Any) -> Any:
        proposal = propose(*arguments, **keywords)
        drafted["tokens"] = proposal.draft_block.draft_tokens
        return proposal

    def peek(*_: Any) -> torch.Tensor:
        even = drafted["tokens"][:, 1:] % 2 == 0
        return 1 + even.to(torch.int32).cumprod(dim=1).sum(dim=1).to(torch.int32)

    step_hooks.propose = remember
    step_hooks.verify_lengths = peek
