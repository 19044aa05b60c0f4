"""What requests ask: random tokens, or texts cut to the length that the workload wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from sglang_dspark.errors import InputError
from sglang_dspark.sglang_client import Client, UnansweredError


class Wanted(NamedTuple):
    """A request that needs a prompt.

    Attributes:
        id: Its place in the workload.
        tokens: Length of the prompt.
        cached: Of them, how many the prefix cache is to have.
    """

    id: int
    slo_class: str
    tokens: int
    cached: int


Prompts = Callable[[Wanted], str | Sequence[int]]
"""Gives a request its prompt, as text or as token ids."""

# All bytes that a text is likely to have, in words of several lengths.
ALPHABET: Final = " ".join(
    f"{a}{b}{c}" for a in "bcdfghjklmnprstvwz" for b in "aeiou" for c in ("", "n", "s", "ck", "tion", "ment", "ing")
)


def random_tokens(client: Client, seed: int) -> Prompts:
    """Random ids of the server's own vocabulary, a pure function of seed and request.

    Requests of a class begin alike where they are to be found in the prefix cache.

    Raises:
        InputError: The server has no tokenizer.
    """
    # By way of its tokenizer: the server does not tell the size of its vocabulary, and no special token comes of words.
    ids = np.array(sorted(set(_tokens(client, [ALPHABET])[0])))

    def prompt(wanted: Wanted) -> list[int]:
        shared = np.random.default_rng([seed, *wanted.slo_class.encode()])
        own = np.random.default_rng([seed, wanted.id])
        parts = (shared.choice(ids, wanted.cached), own.choice(ids, wanted.tokens - wanted.cached))
        return [int(token) for part in parts for token in part]

    return prompt


def of_texts(client: Client, texts: Mapping[str, Sequence[str]]) -> Prompts:
    """The texts of a request's class, each request at the next one, cut to its length and prolonged by those after it.

    Raises:
        InputError: The server has no tokenizer.
    """
    ids = {name: _tokens(client, rows) for name, rows in texts.items()}
    turns = dict.fromkeys(ids, 0)

    def prompt(wanted: Wanted) -> list[int]:
        rows, turn = ids[wanted.slo_class], turns[wanted.slo_class]
        turns[wanted.slo_class] += 1
        found: list[int] = []
        while len(found) < wanted.tokens:
            found += rows[turn % len(rows)]
            turn += 1
        return found[: wanted.tokens]

    return prompt


def read(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Texts by class from lines of ``{"slo_class": ..., "text": ...}``.

    Raises:
        InputError: No such file, a line that is not one, or a class without a text.
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
        found = client.tokens(texts)
    except UnansweredError as error:
        raise InputError(f"{client.url}: cannot tokenize prompts ({error}); start it with its tokenizer") from error
    if not all(found):
        raise InputError(f"{client.url}: a text of {texts[found.index([])]!r} has no token; leave it out")
    return found
