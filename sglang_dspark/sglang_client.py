"""An HTTP client of a running SGLang server."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sglang_dspark.errors import InputError

TIMEOUT_S: Final = 60.0

# SGLang 0.5.23 keeps the older second path with a warning.
INFO: Final = ("/server_info", "/get_server_info")


class UnansweredError(ConnectionError):
    """The server did not answer, or not in the expected form."""


class Client:
    """A client of one server.

    Attributes:
        url: The server's address, without a slash at its end.
        headers: Of every request, including the API key.
        received: Bytes of the last answer.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """
        Raises:
            InputError: ``url`` is not the address of a server.
        """
        parts = urllib.parse.urlsplit(url)
        try:
            port_is_wrong = parts.port == 0
        except ValueError:
            port_is_wrong = True
        if parts.scheme not in ("http", "https") or not parts.hostname or port_is_wrong:
            raise InputError(f"url: {url!r} is not a server's address; write http://host:30000")
        self.url = url.rstrip("/")
        self.received = 0
        self.headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self.headers["Authorization"] = f"Bearer {api_key}"
        self._info_path: str | None = None

    def connect(self) -> dict[str, Any]:
        """Return :meth:`info`, for the first request to a server that a person named.

        Raises:
            InputError: The server does not answer, is not SGLang, or needs a key.
        """
        try:
            return self.info()
        except UnansweredError as error:
            raise InputError(
                f"url: {self.url} does not answer as SGLang does ({error}); "
                "give the address of a server that has started"
            ) from error

    def info(self) -> dict[str, Any]:
        """Get ``/server_info``, with the schedulers' states under ``internal_states``.

        Raises:
            UnansweredError: The server does not answer, or without states.
            InputError: The server needs a key.
        """
        for path in INFO if self._info_path is None else (self._info_path,):
            try:
                content = self._json(path)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    continue
                raise UnansweredError(f"{path}: {error}") from error
            states = content.get("internal_states") if isinstance(content, dict) else None
            if not isinstance(states, list) or not states or not all(isinstance(state, dict) for state in states):
                raise UnansweredError(f"{path} has no internal_states")
            self._info_path = path
            return dict(content)
        raise UnansweredError(f"it has no {INFO[0]}")

    def state(self) -> dict[str, Any]:
        """Get the scheduler's internal state, of the first data-parallel rank."""
        return dict(self.info()["internal_states"][0])

    def set_state(self, **numbers: float) -> bool:
        """Set scheduler state; return whether every rank has accepted it.

        Raises:
            UnansweredError: The server does not answer.
            InputError: The server needs a key.
        """
        try:
            accepted = self._json("/set_internal_state", {"server_args": numbers})
        except urllib.error.HTTPError as error:
            raise UnansweredError(f"/set_internal_state: {error}") from error
        return isinstance(accepted, list) and all(each is True for each in accepted)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts with the server's tokenizer.

        Raises:
            UnansweredError: The server does not answer.
            InputError: The server needs a key.
        """
        try:
            rows = self._json("/tokenize", {"prompt": list(texts)})["tokens"]
        except (urllib.error.HTTPError, KeyError, TypeError) as error:
            raise UnansweredError(f"/tokenize: {error}") from error
        return [list(ids) for ids in rows]

    def empty_cache(self) -> bool:
        """Empty the prefix cache; return whether it was possible, which it is not while requests run.

        Raises:
            UnansweredError: The server does not answer.
            InputError: The server needs a key.
        """
        try:
            self.send("/flush_cache")
        except urllib.error.HTTPError:
            return False
        return True

    def post(self, path: str, content: Mapping[str, Any], timeout_s: float = 300.0) -> Any:
        """Post JSON and return the answer, parsed where it is JSON.

        Raises:
            urllib.error.HTTPError: The server refused.
            UnansweredError: The server does not answer.
            InputError: The server needs a key.
        """
        return json.loads(self.send(path, content, timeout_s) or b"null")

    def get(self, path: str) -> str:
        """Get a page as text; errors as of :meth:`post`."""
        return self.send(path).decode()

    def send(self, path: str, content: Any = None, timeout_s: float = TIMEOUT_S) -> bytes:
        """Post ``content`` as JSON, or get the page where it is None; errors as of :meth:`post`."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                text: bytes = answer.read()
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise InputError(
                    f"api_key: {self.url} refuses {path} ({error.code}); give the server's admin key, or its key if it"
                    " has no other"
                ) from error
            raise
        except urllib.error.URLError as error:
            raise UnansweredError(str(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(str(error) or type(error).__name__) from error
        self.received = len(text)
        return text

    def _json(self, path: str, content: Any = None) -> Any:
        text = self.send(path, content)
        try:
            return json.loads(text)
        except ValueError as error:
            raise UnansweredError(f"{path} is not JSON") from error


def verify_lengths(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the number of rounds by drafts verified, from an answer's ``meta_info``; SGLang counts the anchor too."""
    return tuple(meta.get("spec_cap_lens_histogram") or ())[1:]
