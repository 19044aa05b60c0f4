"""Text that every Python installation has: the standard library's files, in classes that differ in predictability.

``code`` is modules as they are, ``prose`` is docstrings and the topics of ``help()``, ``tables`` is the character maps
of ``encodings``. A document is a file, or one help topic; the hash of its name decides whether it is held out, so that
no other file added or removed moves it.
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

# Parts that distributions of Python leave out or package apart, so that the corpus is about the same everywhere.
_ELSEWHERE = frozenset(
    {"test", "tests", "idle_test", "idlelib", "tkinter", "turtledemo", "lib2to3", "distutils", "ensurepip"}
    | {"site-packages", "dist-packages", "__pycache__", "pydoc_data"}
)
_TABLE_MARKER = "decoding_table = ("


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its class; ``name`` is its path below the standard library, with ``#`` before what is part of it."""

    name: str
    klass: Klass
    text: str

    @property
    def held_out(self) -> bool:
        """Whether training must not see it. Docstrings go with the module that holds them."""
        origin = self.name.removesuffix("#docstrings")
        return int.from_bytes(hashlib.sha256(origin.encode()).digest()[:4]) % 100 < HELD_OUT_PERCENT


@cache
def documents() -> tuple[Document, ...]:
    """All documents of the running Python, ordered by name."""
    return tuple(sorted(_documents(Path(sysconfig.get_path("stdlib"))), key=lambda document: document.name))


def held_out(klass: Klass, count: int, tokens: int, seed: int, tokenizer: Tokenizer | None = None) -> list[str]:
    """Prompts that training never saw: passages of ``tokens`` tokens of held-out documents of one class.

    Args:
        tokens: length of a prompt under ``tokenizer``; about, as a cut at a token may merge differently alone.
        seed: of the choice of passages; equal seeds give equal prompts on equal standard libraries.
        tokenizer: by which to count; by default the packaged target's.

    Raises:
        InputError: an unknown class, or no held-out document of it is that long.
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
        # By length, so that every passage is as likely as any other. The second half stays for the continuation.
        ids = choice.choices(encoded, [len(ids) - 2 * tokens for ids in encoded])[0]
        start = choice.randrange(len(ids) - 2 * tokens)
        prompts.append(tokenizer.decode(ids[start : start + tokens], skip_special_tokens=False))
    return prompts


def training(count: int, tokens: int, seed: int) -> list[str]:
    """Passages of ``tokens`` tokens, by the packaged target's tokenizer, of the documents that are not held out.

    Classes take turns, so that small ones are not drowned.
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
        # Invalid escapes in what is parsed are no matter of ours.
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return ""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, holders))
    return "\n\n".join(text for text in texts if text)


def main() -> None:
    """``python -m sglang_dspark.drafter.text OUT``: prompts for the packaged target as JSON lines.

    ``train.jsonl`` and ``validation.jsonl`` are passages of documents that its own training saw, and ``code.jsonl``,
    ``prose.jsonl`` and ``tables.jsonl`` of those held out.
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
