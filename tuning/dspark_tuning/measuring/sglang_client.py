"""A running SGLang over HTTP: what it says of itself, and what it can be told."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, Final

from sglang_dspark.errors import InputError

TIMEOUT_S: Final = 60.0

# The second is what SGLang had before, and still has with a warning.
INFO: Final = ("/server_info", "/get_server_info")


class UnansweredError(Exception):
    """The server did not answer, or not with what was asked for."""


class Client:
    """A server.

    Attributes:
        url: Without a slash at its end.
        headers: Of every request, the key among them.
        received: Bytes of the last answer.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """
        Raises:
            InputError: Not the address of a server.
        """
        parts = urllib.parse.urlsplit(url)
        try:
            port_is_wrong = parts.port == 0
        except ValueError:
            port_is_wrong = True
        if parts.scheme not in ("http", "https") or not parts.hostname or port_is_wrong:
            raise InputError(f"--url: {url!r} is not a server's address; write http://host:30000")
        self.url = url.rstrip("/")
        self.received = 0
        self.headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self.headers["Authorization"] = f"Bearer {api_key}"
        self._info: str | None = None

    def connect(self) -> dict[str, Any]:
        """What the server says of itself, the first time.

        Raises:
            InputError: Nobody answers, it is no SGLang, or it wants a key.
        """
        try:
            return self.info()
        except UnansweredError as error:
            raise InputError(
                f"--url: {self.url} does not answer as SGLang does ({error}); "
                "give the address of a server that has started"
            ) from error

    def info(self) -> dict[str, Any]:
        """``/server_info``, with the schedulers' states under ``internal_states``.

        Raises:
            UnansweredError: As it says.
            InputError: It wants a key.
        """
        for path in INFO if self._info is None else (self._info,):
            try:
                found = self._ask(path)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    continue
                raise UnansweredError(f"{path}: {error}") from error
            states = found.get("internal_states") if isinstance(found, dict) else None
            if not isinstance(states, list) or not states or not all(isinstance(state, dict) for state in states):
                raise UnansweredError(f"{path} tells no internal_states")
            self._info = path
            return dict(found)
        raise UnansweredError(f"it has no {INFO[0]}")

    def tell(self, **numbers: float) -> bool:
        """Sets scheduler state; whether every rank has accepted it.

        Raises:
            UnansweredError: As it says.
            InputError: It wants a key.
        """
        try:
            found = self._ask("/set_internal_state", {"server_args": numbers})
        except urllib.error.HTTPError as error:
            raise UnansweredError(f"/set_internal_state: {error}") from error
        return isinstance(found, list) and all(accepted is True for accepted in found)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, by the server's own tokenizer.

        Raises:
            UnansweredError: As it says.
            InputError: It wants a key.
        """
        try:
            found = self._ask("/tokenize", {"prompt": list(texts)})["tokens"]
        except (urllib.error.HTTPError, KeyError, TypeError) as error:
            raise UnansweredError(f"/tokenize: {error}") from error
        return [list(ids) for ids in found]

    def empty_cache(self) -> bool:
        """Empties the prefix cache; whether it could, which it cannot while requests run.

        Raises:
            UnansweredError: As it says.
            InputError: It wants a key.
        """
        try:
            self._send("/flush_cache")
        except urllib.error.HTTPError:
            return False
        return True

    def _ask(self, path: str, content: Any = None) -> Any:
        text = self._send(path, None if content is None else json.dumps(content).encode())
        try:
            return json.loads(text)
        except ValueError as error:
            raise UnansweredError(f"{path} is not JSON") from error

    def _send(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data, self.headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                text: bytes = answer.read()
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise InputError(
                    f"{self.url}: refuses {path} ({error.code}); give the server's admin key, or its key if it has no "
                    "other, with --api-key"
                ) from error
            raise
        except urllib.error.URLError as error:
            raise UnansweredError(str(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(str(error) or type(error).__name__) from error
        self.received = len(text)
        return text
