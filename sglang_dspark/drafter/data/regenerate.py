"""Regenerating answers with the target, the text that its drafter has to predict. No torch.

Answered prompts are appended as whole lines, so that an interrupted run can be resumed. ``FILE.about.json`` records the
model and the sampling.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from sglang_dspark.drafter.data.conversations import Conversation, Message, read
from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically


class Sampling(NamedTuple):
    """The sampling parameters of answers."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    seed: int = 0


class Answerer(Protocol):
    """A source of answers: a server, or a target in this process."""

    @property
    def name(self) -> str:
        """The model's name."""

    def answers(
        self, conversations: Sequence[list[Message]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, str]]:
        """Yield the next answer to each conversation with its index, in any order; each has its own seed."""


class Regenerated(NamedTuple):
    """The numbers of answered prompts."""

    written: int
    found: int
    """Prompts answered by an earlier run."""


def regenerate(
    prompts: Path,
    out: Path,
    answerer: Answerer,
    sampling: Sampling,
    together: int = 64,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Regenerated:
    """Answer every prompt of a file turn by turn, appending to ``out``.

    Args:
        prompts: JSON lines of prompts.
        out: JSON lines of answers; an existing file is resumed.
        answerer: The source of answers.
        sampling: Its sampling parameters.
        together: Prompts per batch.
        progress: Called after each batch with the answered prompts and their total.

    Raises:
        InputError: The prompts cannot be read, ``out`` holds answers of another run, or the answerer fails.
    """
    _claim(out, answerer.name, sampling)
    done = _answered(out)
    waiting = []
    for n, conversation in enumerate(read(prompts)):
        name = f"{n}-{hashlib.sha256(chr(0).join(conversation.turns).encode()).hexdigest()[:12]}"
        if name not in done:
            waiting.append((name, n, conversation))
    earlier = len(done)
    for start in range(0, len(waiting), together):
        batch = waiting[start : start + together]
        texts = _converse([conversation for _, _, conversation in batch], [n for _, n, _ in batch], answerer, sampling)
        lines = [
            json.dumps({"id": name, "conversations": messages}, ensure_ascii=False) + "\n"
            for (name, _, _), messages in zip(batch, texts, strict=True)
        ]
        _append(out, "".join(lines))
        progress(earlier + start + len(batch), earlier + len(waiting))
    return Regenerated(len(waiting), earlier)


def _converse(
    conversations: Sequence[Conversation], numbers: Sequence[int], answerer: Answerer, sampling: Sampling
) -> list[list[Message]]:
    """Answer the user turns of conversations one after the other."""
    written: list[list[Message]] = [[m for m in c.messages if m["role"] == "system"][:1] for c in conversations]
    for turn in range(max(len(c.turns) for c in conversations)):
        open_ = [i for i, c in enumerate(conversations) if turn < len(c.turns)]
        for i in open_:
            written[i].append({"role": "user", "content": conversations[i].turns[turn]})
        seeds = [sampling.seed * 1_000_003 + numbers[i] * 101 + turn for i in open_]
        for place, answer in answerer.answers([written[i] for i in open_], seeds, sampling):
            written[open_[place]].append({"role": "assistant", "content": answer})
    return written


def _claim(out: Path, model: str, sampling: Sampling) -> None:
    """Record the model and sampling of the file, or raise InputError if it holds answers of others."""
    about = out.with_name(out.name + ".about.json")
    content = json.dumps({"model": model} | sampling._asdict(), indent=2, sort_keys=True) + "\n"
    if out.exists() and (not about.exists() or about.read_text() != content):
        raise InputError(f"{out}: holds answers of another model or sampling ({about.name}); choose another file")
    write_atomically(about, content)


def _answered(out: Path) -> set[str]:
    """Return the names of the prompts answered so far, and cut off an incomplete last line of a killed run."""
    if not out.exists():
        return set()
    with out.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        file.truncate(whole)
    names = set()
    for n, line in enumerate(content[:whole].splitlines(), 1):
        try:
            names.add(str(json.loads(line)["id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{out}:{n}: is no answer of an earlier run; choose another file") from error
    return names


def _append(out: Path, text: str) -> None:
    size = out.stat().st_size if out.exists() else 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if out.exists():
            os.truncate(out, size)
        raise InputError(f"{out}: cannot be written ({error.strerror}); free space and run again to go on") from error
