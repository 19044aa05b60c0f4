"""Speculative decoding offline: the rounds of drafting and verification that a server makes, without the server.

Every round is one pass of the drafter and one of the target over whole sequences, without a KV cache: a slow and
simple reference for the fast implementations. Acceptance is rejection sampling; at temperature 0 a draft is accepted
where it equals the target's most likely token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sglang_dspark.drafter.base import Drafter, distribution
from sglang_dspark.drafter.data.conversations import Message
from sglang_dspark.drafter.pair import Pair
from sglang_dspark.drafter.rounds import OfflineRounds, join
from sglang_dspark.drafter.target import Target
from sglang_dspark.errors import InputError


@torch.no_grad()
def speculate(
    target: Target,
    drafter: Drafter[Any],
    prompts: list[list[int]],
    new: int,
    temperature: float,
    seed: int,
    stop: frozenset[int] = frozenset(),
) -> OfflineRounds:
    """Continue prompts by speculative decoding.

    Args:
        prompts: Tokens of each prompt, at least one.
        new: Tokens to add to each, at least; the last round may add more.
        temperature: Of target and drafter.
        seed: Of the samples.
        stop: Tokens that end a text earlier; the round that draws one is not returned.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = [list(prompt) for prompt in prompts]
    layers = drafter.config.target_layer_ids
    proposals, accepted, requests, begins = [], [], [], []

    def padded(rows: list[list[int]]) -> Tensor:
        # On the right, where causal attention does not reach.
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=target.device)

    # The prefill gives the first token, as in a server.
    states = target.hidden_states(padded(texts), layers)
    features = states.features
    for row, text in enumerate(texts):
        first = target.logits(states.last[row, len(text) - 1]).float().cpu()
        text.append(int(_sample(distribution(first, temperature), generator)))
    running = [row for row, text in enumerate(texts) if text[-1] not in stop]
    features = features[running]
    while running:
        lengths = torch.tensor([len(texts[row]) for row in running], device=target.device)
        proposal = drafter.propose(padded([texts[row] for row in running]), lengths, features, temperature, generator)
        drafts, drawn_from = proposal.tokens.cpu(), proposal.probabilities.cpu()
        states = target.hidden_states(
            padded([texts[row] + drafts[i].tolist() for i, row in enumerate(running)]), layers
        )
        features = states.features
        counted, unfinished = [], []
        for i, row in enumerate(running):
            logits = target.logits(states.last[i, len(texts[row]) - 1 : len(texts[row]) + drafts.shape[1]])
            aims = distribution(logits.float().cpu(), temperature)
            count, bonus = _verify(drafts[i], drawn_from[i], aims, generator)
            emitted = [*drafts[i, :count].tolist(), bonus]
            end = next((k for k, token in enumerate(emitted) if token in stop), None)
            if end is None:
                counted.append(i)
                accepted.append(count)
                requests.append(row)
                begins.append(len(texts[row]) - len(prompts[row]))
            texts[row] += emitted if end is None else emitted[: end + 1]
            if end is None and len(texts[row]) - len(prompts[row]) < new:
                unfinished.append(i)
        raw = proposal.confidence_logits
        none = torch.full(drafts.shape, torch.nan)
        proposals.append((none if raw is None else raw.float().cpu())[counted].numpy())
        running, features = [running[i] for i in unfinished], features[unfinished]
    gamma = drafter.config.gamma
    return OfflineRounds(
        np.concatenate([*proposals, np.empty((0, gamma), np.float32)]),
        np.array(accepted, np.int64),
        texts,
        np.array(requests, np.int64),
        np.array(begins, np.int64),
    )


def converse(
    pair: Pair,
    prompts: Sequence[Sequence[str]],
    new: int,
    temperature: float,
    seed: int,
    together: int = 16,
    template: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> OfflineRounds:
    """Answer conversations turn by turn by speculative decoding.

    Args:
        prompts: The user's turns of each conversation.
        new: Tokens of an answer, unless the target ends it earlier.
        together: Conversations per batch.
        template: Additional arguments of the chat template.
        progress: Called after each batch with the conversations done and their total.

    Returns:
        The rounds; every turn of a conversation is a separate request.
    """
    stop = pair.target.stop_tokens()
    parts = []
    for start in range(0, len(prompts), together):
        batch = [list(turns) for turns in prompts[start : start + together]]
        histories: list[list[Message]] = [[] for _ in batch]
        for turn in range(max(map(len, batch))):
            open_ = [i for i, turns in enumerate(batch) if turn < len(turns)]
            for i in open_:
                histories[i].append({"role": "user", "content": batch[i][turn]})
            inputs = [_tokens(pair.tokenizer, histories[i], template or {}) for i in open_]
            number = (seed * 1_000_003 + start) * 101 + turn
            rounds = speculate(pair.target, pair.drafter, inputs, new, temperature, number, stop)
            parts.append(rounds)
            for i, ids, text in zip(open_, inputs, rounds.texts, strict=True):
                answer = pair.tokenizer.decode(text[len(ids) :], skip_special_tokens=True)
                histories[i].append({"role": "assistant", "content": answer})
        progress(min(start + together, len(prompts)), len(prompts))
    return join(parts)


def _verify(drafts: Tensor, drawn_from: Tensor, target: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """Verify one block by rejection sampling.

    Args:
        drafts: [gamma].
        drawn_from: [gamma, V] distributions of the drafts.
        target: [gamma + 1, V] distributions of the target.

    Returns:
        The number of drafts accepted, and the target's own token after them.
    """
    positions = torch.arange(len(drafts))
    ratio = target[positions, drafts] / drawn_from[positions, drafts]
    refused = torch.rand(len(drafts), generator=generator) >= ratio
    count = int(refused.nonzero()[0]) if refused.any() else len(drafts)
    weights = target[count]
    if count < len(drafts):
        weights = (weights - drawn_from[count]).clamp(min=0.0)
    return count, int(_sample(weights, generator))


def _sample(weights: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(weights, 1, generator=generator)


def _tokens(tokenizer: Any, messages: list[Message], template: dict[str, Any]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise InputError(f"prompt: {messages[-1]['content'][:40]!r} has no token; leave it out")
    return ids
