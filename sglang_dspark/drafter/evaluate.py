"""Speculative decoding offline: rounds of draft and verification as a server makes them, without the server.

Every round is one pass of the drafter and one of the target over whole sequences, without a KV cache: slow and plain,
so that it can check what is fast. Acceptance is rejection sampling, which at temperature 0 is equality with the
target's likeliest token.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from sglang_dspark.drafter.base import distribution
from sglang_dspark.drafter.checkpoint import AnyDrafter, load
from sglang_dspark.drafter.target import Target
from sglang_dspark.drafter.text import CLASSES, Klass, held_out

log = logging.getLogger(__name__)

SEED = 1
PROMPT = 96
"""Tokens of a prompt in :func:`figures`."""


class Rounds(NamedTuple):
    """What R rounds of several requests came to."""

    confidence_logits: NDArray[np.float32]
    """[R, gamma], raw; NaN of a drafter without a confidence head."""

    accepted: NDArray[np.int64]
    """[R] drafts accepted, 0..gamma."""

    texts: list[list[int]]
    """Each request's tokens, its prompt included."""

    request: NDArray[np.int64]
    """[R] indices into ``texts``."""

    begin: NDArray[np.int64]
    """[R] tokens of the answer before the round's drafts."""

    @property
    def accepted_length(self) -> float:
        """Tokens a round, the target's own included."""
        return float(self.accepted.mean()) + 1.0

    @property
    def prefix_accepted(self) -> NDArray[np.bool_]:
        """[R, gamma] whether the draft at a place and all before it were accepted."""
        return np.arange(self.confidence_logits.shape[1]) < self.accepted[:, None]

    @property
    def reached(self) -> NDArray[np.bool_]:
        """[R, gamma] whether all drafts before a place were accepted, so that its own acceptance counts."""
        return np.arange(self.confidence_logits.shape[1]) <= self.accepted[:, None]

    def acceptance_by_place(self) -> NDArray[np.float64]:
        """[gamma] the share accepted of the drafts that were reached; NaN where none was."""
        reached = self.reached.sum(0)
        accepted = self.prefix_accepted.sum(0)
        return np.array([a / r if r else np.nan for a, r in zip(accepted, reached, strict=True)])

    def roc_auc(self) -> float:
        """How well the confidence of drafts that were reached tells the accepted from the rejected, 0.5..1."""
        return roc_auc(self.confidence_logits[self.reached], self.prefix_accepted[self.reached])


def roc_auc(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative, ties counting half; NaN without either."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    return float((ranks[inverse][positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


@torch.no_grad()
def speculate(
    target: Target,
    drafter: AnyDrafter,
    prompts: list[list[int]],
    new: int,
    temperature: float,
    seed: int,
    stop: frozenset[int] = frozenset(),
) -> Rounds:
    """Continues each prompt by at least ``new`` tokens, speculating with blocks of gamma drafts.

    Args:
        prompts: tokens of each, at least one.
        temperature: of target and drafter.
        seed: of the samples.
        stop: tokens that end a text before; a round that meets one is not among those returned.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = [list(prompt) for prompt in prompts]
    layers = drafter.config.target_layer_ids
    proposals, accepted, requests, begins = [], [], [], []

    def padded(rows: list[list[int]]) -> Tensor:
        # On the right, where causal attention does not see it.
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=target.device)

    # The prefill gives the first token, as in a server.
    seen = target.look(padded(texts), layers)
    features = seen.features
    for row, text in enumerate(texts):
        first = target.logits(seen.last[row, len(text) - 1]).float().cpu()
        text.append(int(_sample(distribution(first, temperature), generator)))
    running = [row for row, text in enumerate(texts) if text[-1] not in stop]
    features = features[running]
    while running:
        lengths = torch.tensor([len(texts[row]) for row in running], device=target.device)
        proposal = drafter.propose(padded([texts[row] for row in running]), lengths, features, temperature, generator)
        drafts, drawn_from = proposal.tokens.cpu(), proposal.probabilities.cpu()
        seen = target.look(padded([texts[row] + drafts[i].tolist() for i, row in enumerate(running)]), layers)
        features = seen.features
        counted, on = [], []
        for i, row in enumerate(running):
            logits = target.logits(seen.last[i, len(texts[row]) - 1 : len(texts[row]) + drafts.shape[1]])
            aims = distribution(logits.float().cpu(), temperature)
            count, own = _verify(drafts[i], drawn_from[i], aims, generator)
            emitted = [*drafts[i, :count].tolist(), own]
            end = next((k for k, token in enumerate(emitted) if token in stop), None)
            if end is None:
                counted.append(i)
                accepted.append(count)
                requests.append(row)
                begins.append(len(texts[row]) - len(prompts[row]))
            texts[row] += emitted if end is None else emitted[: end + 1]
            if end is None and len(texts[row]) - len(prompts[row]) < new:
                on.append(i)
        raw = proposal.confidence_logits
        none = torch.full(drafts.shape, torch.nan)
        proposals.append((none if raw is None else raw.float().cpu())[counted].numpy())
        running, features = [running[i] for i in on], features[on]
    gamma = drafter.config.gamma
    return Rounds(
        np.concatenate([*proposals, np.empty((0, gamma), np.float32)]),
        np.array(accepted, np.int64),
        texts,
        np.array(requests, np.int64),
        np.array(begins, np.int64),
    )


def _verify(drafts: Tensor, drawn_from: Tensor, target: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """Rejection sampling of one block: drafts accepted, and the target's own token after them.

    Args:
        drafts: [gamma].
        drawn_from: [gamma, V] distributions of the drafts.
        target: [gamma + 1, V] the target's.
    """
    places = torch.arange(len(drafts))
    ratio = target[places, drafts] / drawn_from[places, drafts]
    refused = torch.rand(len(drafts), generator=generator) >= ratio
    count = int(refused.nonzero()[0]) if refused.any() else len(drafts)
    rest = target[count]
    if count < len(drafts):
        rest = (rest - drawn_from[count]).clamp(min=0.0)
    return count, int(_sample(rest, generator))


def _sample(weights: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(weights, 1, generator=generator)


class Figures(NamedTuple):
    """Rounds over held-out prompts of one class at one temperature."""

    klass: Klass
    temperature: float
    rounds: Rounds


def figures(
    target: Target,
    drafter: AnyDrafter,
    tokenizer: Tokenizer,
    count: int,
    new: int,
    temperatures: Sequence[float],
    seed: int,
) -> list[Figures]:
    """Speculates over ``count`` held-out prompts of every class at every temperature, ``new`` tokens each."""
    measured = []
    for temperature in temperatures:
        for klass in CLASSES:
            prompts = [tokenizer.encode(text).ids for text in held_out(klass, count, PROMPT, seed, tokenizer)]
            rounds = speculate(target, drafter, prompts, new, temperature, seed)
            measured.append(Figures(klass, temperature, rounds))
            log.info("%s at temperature %g: accepted length %.2f", klass, temperature, rounds.accepted_length)
    return measured


def join(rounds: Sequence[Rounds]) -> Rounds:
    """The rounds of several classes as one."""
    offsets = np.cumsum([0, *(len(each.texts) for each in rounds)])
    return Rounds(
        np.concatenate([each.confidence_logits for each in rounds]),
        np.concatenate([each.accepted for each in rounds]),
        [text for each in rounds for text in each.texts],
        np.concatenate([each.request + offset for each, offset in zip(rounds, offsets, strict=False)]),
        np.concatenate([each.begin for each in rounds]),
    )


def save_shard(rounds: Rounds, path: Path) -> None:
    """Writes rounds as SGLang records them, for ``python -m sglang.benchmark.dspark_sts_fit --data-glob``."""
    content = {
        "logits": torch.from_numpy(rounds.confidence_logits),
        "prefix_mask": torch.from_numpy(rounds.prefix_accepted).float(),
    }
    torch.save(content, path)


def main() -> None:
    """``python -m sglang_dspark.drafter.evaluate TARGET DRAFT``: prints one JSON object a class and temperature."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("draft", type=Path)
    parser.add_argument("--count", type=int, default=24, help="prompts a class")
    parser.add_argument("--new", type=int, default=128, help="tokens a prompt")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair = Target.load(str(arguments.target)), load(arguments.draft)
    tokenizer = Tokenizer.from_file(str(arguments.target / "tokenizer.json"))
    for each in figures(*pair, tokenizer, arguments.count, arguments.new, arguments.temperature, arguments.seed):
        line = {
            "class": each.klass,
            "temperature": each.temperature,
            "rounds": len(each.rounds.accepted),
            "accepted_length": round(each.rounds.accepted_length, 3),
            "acceptance_by_place": [round(float(share), 3) for share in each.rounds.acceptance_by_place()],
            "roc_auc": round(each.rounds.roc_auc(), 3),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
