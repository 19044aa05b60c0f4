"""Prompts of a workload: random tokens, or texts cut to the prompt lengths."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from sglang_dspark.errors import InputError
from sglang_dspark.sglang_client import Client, UnansweredError


class PromptSpec(NamedTuple):
    """Specification of the prompt of a request.

    Attributes:
        id: Index of the request in the workload.
        slo_class: Name of the request class.
        tokens: Length of the prompt.
        cached: Length of its prefix that the prefix cache should hold.
    """

    id: int
    slo_class: str
    tokens: int
    cached: int


Prompts = Callable[[PromptSpec], str | Sequence[int]]
"""Makes the prompt of a request, as text or as token ids."""

# Words of several lengths, whose tokens stand for the vocabulary.
ALPHABET: Final = " ".join(
    f"{a}{b}{c}" for a in "bcdfghjklmnprstvwz" for b in "aeiou" for c in ("", "n", "s", "ck", "tion", "ment", "ing")
)


def random_tokens(client: Client, seed: int) -> Prompts:
    """Random token ids of the vocabulary of the server, a pure function of seed and request.

    Requests of a class share their cached prefix.

    Raises:
        InputError: The server has no tokenizer.
    """
    # From its tokenizer: the server does not report the size of its vocabulary, and words give no special tokens.
    ids = np.array(sorted(set(_tokens(client, [ALPHABET])[0])))

    def prompt(spec: PromptSpec) -> list[int]:
        shared = np.random.default_rng([seed, *spec.slo_class.encode()])
        own = np.random.default_rng([seed, spec.id])
        parts = (shared.choice(ids, spec.cached), own.choice(ids, spec.tokens - spec.cached))
        return [int(token) for part in parts for token in part]

    return prompt


def of_texts(client: Client, texts: Mapping[str, Sequence[str]]) -> Prompts:
    """Texts of the class of a request, in turn, cut to the prompt length or continued with the next texts.

    Raises:
        InputError: The server has no tokenizer.
    """
    ids = {name: _tokens(client, rows) for name, rows in texts.items()}
    turns = dict.fromkeys(ids, 0)

    def prompt(spec: PromptSpec) -> list[int]:
        rows, turn = ids[spec.slo_class], turns[spec.slo_class]
        turns[spec.slo_class] += 1
        ids_so_far: list[int] = []
        while len(ids_so_far) < spec.tokens:
            ids_so_far += rows[turn % len(rows)]
            turn += 1
        return ids_so_far[: spec.tokens]

    return prompt


def read(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Read texts by class from JSON lines ``{"slo_class": ..., "text": ...}``.

    Raises:
        InputError: No such file, an invalid line, or a class without a text.
    """
    texts: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts: {path}: cannot be read as text ({error}); give a file of JSON lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["slo_class"], row["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'prompts: {path}: line {number}: {line[:60]!r} is not {{"slo_class": "...", "text": "..."}}'
            ) from error
        if not isinstance(name, str) or not isinstance(text, str) or not text:
            raise InputError(f"prompts: {path}: line {number}: slo_class and text must be texts; correct the line")
        texts.setdefault(name, []).append(text)
    if missing := [name for name in classes if name not in texts]:
        raise InputError(f"prompts: {path}: has no text of class {missing[0]!r}; add some")
    return texts


def _tokens(client: Client, texts: Sequence[str]) -> list[list[int]]:
    try:
        tokens = client.tokens(texts)
    except UnansweredError as error:
        raise InputError(f"{client.url}: cannot tokenize prompts ({error}); start it with its tokenizer") from error
    if not all(tokens):
        raise InputError(f"{client.url}: a text of {texts[tokens.index([])]!r} has no token; leave it out")
    return tokens
