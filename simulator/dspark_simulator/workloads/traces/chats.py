"""Conversations: ShareGPT's form and that of the OpenAI API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from dspark_simulator.workloads.sampling import FloatArray
from dspark_simulator.workloads.traces.base import Batch, TraceFormat
from sglang_dspark.errors import InputError

_ANSWERS = {"gpt", "assistant", "chatgpt", "bing", "bard", "model"}


class Chats(TraceFormat):
    """Texts without token counts and times. As in SGLang's and vLLM's benchmarks the first exchange is the request."""

    name = "sharegpt"
    title = "conversations"

    @classmethod
    def recognises(cls, names: Sequence[str], first: dict[str, Any]) -> bool:
        return any(isinstance(first.get(key), list) for key in ("conversations", "conversation", "messages"))

    def batches(self, extra: Sequence[str]) -> Iterator[Batch]:
        count = self._counter()
        later = 0
        records = self.source.records()
        while some := list(islice(records, 1024)):
            exchanges = [_exchange(record, str(self.source.path)) for record in some]
            later += sum(max(turns - 1, 0) for _, _, turns in exchanges)
            prompt, output = count([p for p, _, _ in exchanges]), count([o for _, o, _ in exchanges])
            answered = np.array([turns > 0 for _, _, turns in exchanges])
            yield Batch(prompt, np.where(answered, output, np.nan))
        self.notes = [self._counted]
        if later:
            self.notes.append(f"the first exchange of each conversation, {later:,} later ones left out")

    def _counter(self) -> Callable[[list[str]], FloatArray]:
        """Tokens of texts, by the tokenizer or the ratio of the settings."""
        name, ratio = self.settings.tokenizer, self.settings.chars_per_token
        if name is not None:
            encode = _tokenizer(name)
            self._counted = f"lengths by the tokenizer {name}"
            return lambda texts: np.array([len(ids) for ids in encode(texts)], np.float64)
        if ratio is not None:
            self._counted = f"lengths as {ratio:g} characters a token, without a chat template"
            return lambda texts: np.array([np.ceil(len(text) / ratio) for text in texts])
        raise InputError(
            f"{self.source.path}: holds texts without token counts; name a tokenizer, or state chars_per_token"
        )


def _tokenizer(name: str) -> Callable[[list[str]], list[list[int]]]:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError(
            f"tokenizer: {name!r} needs transformers; pip install 'sglang-dspark[shapes]', or state chars_per_token"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"tokenizer: {name!r} cannot be loaded ({reason}); give its folder or name") from error

    def encode(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return ids

    return encode


def _exchange(record: dict[str, Any], where: str) -> tuple[str, str, int]:
    """The text before the first answer, that answer, and the number of answers."""
    turns: Any = next((record[key] for key in ("conversations", "conversation", "messages") if key in record), [])
    before: list[str] = []
    answer, answers = "", 0
    for turn in turns if isinstance(turns, list) else []:
        if not isinstance(turn, dict):
            raise InputError(f"{where}: {turn!r} is no turn; give objects with role and text")
        text = turn.get("value", turn.get("content"))
        text = text if isinstance(text, str) else ""
        if str(turn.get("from", turn.get("role"))) in _ANSWERS:
            answers += 1 if before else 0
            answer = text if answers == 1 and not answer else answer
        elif not answers:
            before.append(text)
    return "\n".join(before), answer, answers
