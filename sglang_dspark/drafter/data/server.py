"""Answers from a running server through the OpenAI API. No torch."""

from __future__ import annotations

import os
import queue
import threading
import urllib.error
from collections.abc import Iterator, Sequence
from typing import Any

from sglang_dspark.drafter.data.conversations import Message
from sglang_dspark.drafter.data.regenerate import Sampling
from sglang_dspark.errors import InputError
from sglang_dspark.sglang_client import Client, UnansweredError

TIMEOUT_S = 3600.0


class ServerAnswers:
    """A server with ``/v1/chat/completions``; all prompts of a batch are in flight at once.

    Args:
        url: The server's address, such as http://host:30000.
        model: The server's name for its model.
        template: Additional arguments of the chat template, such as ``{"enable_thinking": False}``.
    """

    def __init__(self, url: str, model: str, template: dict[str, Any] | None = None) -> None:
        self.name = model
        self.template = template or {}
        self._client = Client(url, os.environ.get("DSPARK_API_KEY"))

    def answers(
        self, conversations: Sequence[list[Message]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, str]]:
        answers: queue.Queue[tuple[int, str] | InputError] = queue.Queue()

        def ask(place: int) -> None:
            try:
                answers.put((place, self._answer(conversations[place], seeds[place], sampling)))
            except InputError as error:
                answers.put(error)

        # Daemon threads, so that an interrupted run does not wait for the server.
        for place in range(len(conversations)):
            threading.Thread(target=ask, args=(place,), daemon=True).start()
        for _ in conversations:
            answer = answers.get()
            if isinstance(answer, InputError):
                raise answer
            yield answer

    def _answer(self, conversation: list[Message], seed: int, sampling: Sampling) -> str:
        url = self._client.url
        content: dict[str, Any] = {
            "model": self.name,
            "messages": conversation,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed % 2**31,
        }
        if self.template:
            content["chat_template_kwargs"] = self.template
        try:
            answer = self._client.post("/v1/chat/completions", content, TIMEOUT_S)
            return str(answer["choices"][0]["message"].get("content") or "")
        except urllib.error.HTTPError as error:
            reason = " ".join(error.read().decode(errors="replace").split())[:200]
            raise InputError(
                f"url: {url} refused a prompt ({error.code}: {reason}); correct it and run again to resume"
            ) from error
        except InputError:  # It needs a key.
            raise
        except UnansweredError as error:
            raise InputError(f"url: {url} does not answer ({error}); start it and run again to resume") from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"url: {url} does not answer as the OpenAI API does ({error!r}); give another address"
            ) from error
