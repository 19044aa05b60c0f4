"""Answers from a running server by the OpenAI API. No torch."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp

from sglang_dspark.drafter.data.conversations import Message
from sglang_dspark.drafter.data.regenerate import Sampling
from sglang_dspark.errors import InputError

TIMEOUT_S = 3600.0


class ServerAnswers:
    """A server with ``/v1/chat/completions``, all prompts of a batch in flight at once.

    Args:
        url: as http://host:30000.
        template: additions to the chat template's arguments, such as ``{"enable_thinking": False}``.
    """

    def __init__(self, url: str, model: str, template: dict[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        self.name = model
        self.template = template or {}
        key = os.environ.get("DSPARK_API_KEY")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def answers(
        self, conversations: Sequence[list[Message]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, str]]:
        # The event loop lives in a thread of its own, so that answers are handed on as they come.
        found: queue.Queue[tuple[int, str] | Exception] = queue.Queue()

        async def ask(session: aiohttp.ClientSession, place: int) -> None:
            content: dict[str, Any] = {
                "model": self.name,
                "messages": conversations[place],
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "seed": seeds[place] % 2**31,
            }
            if self.template:
                content["chat_template_kwargs"] = self.template
            async with session.post(f"{self.url}/v1/chat/completions", json=content) as answer:
                if answer.status != 200:
                    text = " ".join((await answer.text()).split())[:200]
                    raise InputError(f"--url: {self.url} refused a prompt ({answer.status}: {text}); mend and go on")
                message = (await answer.json(content_type=None))["choices"][0]["message"]
                found.put((place, message.get("content") or ""))

        async def ask_all() -> None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout, headers=self.headers) as session:
                await asyncio.gather(*(ask(session, place) for place in range(len(conversations))))

        def run() -> None:
            try:
                asyncio.run(ask_all())
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = str(error) or type(error).__name__
                found.put(InputError(f"--url: {self.url} does not answer ({reason}); start it and run again to go on"))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                bad = f"--url: {self.url} does not answer as the OpenAI API does ({error!r}); give another address"
                found.put(error if isinstance(error, InputError) else InputError(bad))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        for _ in conversations:
            item = found.get()
            if isinstance(item, Exception):
                raise item
            yield item
        thread.join()
