"""Answers generated in this process by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sglang_dspark.drafter import grouped_attention
from sglang_dspark.drafter.data.conversations import Message
from sglang_dspark.drafter.data.regenerate import Sampling
from sglang_dspark.drafter.target import Target, load_tokenizer


class TargetAnswers:
    """A target that answers the prompts of a batch in one generation.

    Args:
        name: The target's name, as for :meth:`Target.load`.
        target: The model.
        template: Additional arguments of the chat template.
    """

    def __init__(self, name: str, target: Target, template: dict[str, Any] | None = None) -> None:
        self.name = name
        self.target = target
        self.tokenizer: Any = load_tokenizer(name)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.template = template or {}
        grouped_attention.use(target.model)

    @torch.no_grad()
    def answers(
        self, conversations: Sequence[list[Message]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, str]]:
        texts = [
            self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True, **self.template)
            for c in conversations
        ]
        given = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        given = {name: given[name].to(self.target.device) for name in ("input_ids", "attention_mask")}
        # Samples of a batch share one generator, seeded for its first prompt.
        torch.manual_seed(seeds[0])
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling.temperature else {}
        written = self.target.model.generate(
            **given,
            max_new_tokens=sampling.max_tokens,
            do_sample=bool(sampling.temperature),
            pad_token_id=self.tokenizer.pad_token_id,
            **drawn,
        )
        for place, row in enumerate(written[:, given["input_ids"].shape[1] :]):
            yield place, self.tokenizer.decode(row, skip_special_tokens=True)
