"""The demo's corpus: Python's standard library, in classes that differ in predictability.

``code`` is module sources, ``prose`` is docstrings and the topics of ``help()``, ``tables`` is the character maps of
``encodings``. A document is a file or one help topic; the hash of its name determines whether it is held out, so that
adding or removing other files does not move it.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import random
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data import topics
from typing import TYPE_CHECKING, Literal, get_args

from sglang_dspark.demo import TARGET
from sglang_dspark.drafter.data.conversations import write_prompts
from sglang_dspark.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Klass = Literal["code", "prose", "tables"]
CLASSES: tuple[Klass, ...] = get_args(Klass)

HELD_OUT_PERCENT = 8

# Left out, so that the corpus is similar everywhere: distributions of Python omit these or package them separately.
_ELSEWHERE = frozenset(
    {"test", "tests", "idle_test", "idlelib", "tkinter", "turtledemo", "lib2to3", "distutils", "ensurepip"}
    | {"site-packages", "dist-packages", "__pycache__", "pydoc_data"}
)
_TABLE_MARKER = "decoding_table = ("


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its class; ``name`` is its path in the standard library, with a part of the file after ``#``."""

    name: str
    klass: Klass
    text: str

    @property
    def held_out(self) -> bool:
        """Whether it is excluded from training; docstrings follow their module."""
        origin = self.name.removesuffix("#docstrings")
        return int.from_bytes(hashlib.sha256(origin.encode()).digest()[:4]) % 100 < HELD_OUT_PERCENT


@cache
def documents() -> tuple[Document, ...]:
    """Read all documents of the running Python, ordered by name."""
    return tuple(sorted(_documents(Path(sysconfig.get_path("stdlib"))), key=lambda document: document.name))


def held_out(klass: Klass, count: int, tokens: int, seed: int, tokenizer: Tokenizer | None = None) -> list[str]:
    """Choose random passages of the held-out documents of one class.

    Args:
        klass: The class of the documents.
        count: Number of passages.
        tokens: Approximate length of a passage; its text alone may merge into other tokens.
        seed: Of the choice; equal seeds give equal passages on equal standard libraries.
        tokenizer: That counts the tokens; by default the packaged target's.

    Raises:
        InputError: The class is unknown, or no held-out document of it is long enough.
    """
    if klass not in CLASSES:
        raise InputError(f"class: {klass!r} is not known; choose one of {', '.join(CLASSES)}")
    tokenizer = tokenizer or _packaged_tokenizer()
    encoded = [ids for ids in _held_out_ids(klass, tokenizer) if len(ids) > 2 * tokens]
    if not encoded:
        raise InputError(f"tokens: no held-out {klass} document has {2 * tokens} tokens; ask for shorter prompts")
    choice = random.Random(f"{seed} {klass} {tokens}")
    prompts = []
    for _ in range(count):
        # Weighted by length, so that all passages are equally likely. The second half is left for the continuation.
        ids = choice.choices(encoded, [len(ids) - 2 * tokens for ids in encoded])[0]
        start = choice.randrange(len(ids) - 2 * tokens)
        prompts.append(tokenizer.decode(ids[start : start + tokens], skip_special_tokens=False))
    return prompts


def training(count: int, tokens: int, seed: int) -> list[str]:
    """Choose random passages of the training documents, of each class in turn.

    Args:
        count: Number of passages.
        tokens: Length of a passage in tokens of the packaged target.
        seed: Of the choice.
    """
    tokenizer = _packaged_tokenizer()
    choice = random.Random(f"{seed} training {tokens}")
    pools = []
    for klass in CLASSES:
        texts = [document.text for document in documents() if document.klass == klass and not document.held_out]
        pools.append([ids for ids in (tokenizer.encode(text).ids for text in texts) if len(ids) > 2 * tokens])
    passages = []
    for n in range(count):
        pool = pools[n % len(pools)]
        ids = choice.choices(pool, [len(ids) - 2 * tokens for ids in pool])[0]
        start = choice.randrange(len(ids) - 2 * tokens)
        passages.append(tokenizer.decode(ids[start : start + tokens], skip_special_tokens=False))
    return passages


@cache
def _held_out_ids(klass: Klass, tokenizer: Tokenizer) -> list[list[int]]:
    texts = [document.text for document in documents() if document.klass == klass and document.held_out]
    return [tokenizer.encode(text).ids for text in texts]


@cache
def _packaged_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(TARGET / "tokenizer.json"))


def _documents(stdlib: Path) -> Iterator[Document]:
    for path in sorted(stdlib.rglob("*.py")):
        name = path.relative_to(stdlib).as_posix()
        if not _ELSEWHERE.isdisjoint(path.relative_to(stdlib).parts[:-1]):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if _TABLE_MARKER in text:
            yield Document(name, "tables", text)
            continue
        if text.strip():
            yield Document(name, "code", text)
            prose = _docstrings(text)
            if len(prose) > 400:
                yield Document(f"{name}#docstrings", "prose", prose)
    for topic, text in topics.topics.items():
        yield Document(f"pydoc_data/topics.py#{topic}", "prose", text)


def _docstrings(source: str) -> str:
    with warnings.catch_warnings():
        # The sources may hold invalid escapes.
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return ""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, holders))
    return "\n\n".join(text for text in texts if text)


def main() -> None:
    """Write prompts for the packaged target as JSON lines.

    ``train.jsonl`` and ``validation.jsonl`` hold passages of its training documents; ``code.jsonl``, ``prose.jsonl``
    and ``tables.jsonl`` hold passages of held-out documents.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1536, help="prompts to train on")
    parser.add_argument("--held-out", type=int, default=32, help="held-out prompts a class")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of a prompt")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    passages = training(arguments.train + 64, arguments.tokens, arguments.seed)
    write_prompts(arguments.out / "train.jsonl", ([text] for text in passages[64:]))
    write_prompts(arguments.out / "validation.jsonl", ([text] for text in passages[:64]))
    for klass in CLASSES:
        texts = held_out(klass, arguments.held_out, arguments.tokens, arguments.seed)
        write_prompts(arguments.out / f"{klass}.jsonl", ([text] for text in texts))


if __name__ == "__main__":
    main()
