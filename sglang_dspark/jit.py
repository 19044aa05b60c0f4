"""numba's ``njit`` with a cache of compiled functions where a folder is writable, and without one elsewhere."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import config

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

_logged: set[str] = set()


def njit(**options: Any) -> Callable[[Function], Function]:
    """Decorate a function to be compiled, as ``numba.njit`` does with the same options.

    numba caches beside the source or in the user's home, and raises where it can write to neither, as in a container
    with a read-only root. The cache is then in a private temporary folder; where that is not possible either,
    or a file cannot be written later, functions are compiled anew in every process.
    """

    def decorate(function: Function) -> Function:
        try:
            return cast(Function, _tolerant(numba.njit(**options)(function)))
        except RuntimeError as error:  # No locator available.
            if not options.get("cache"):
                raise
            reason = error
        folder = _temporary_folder()
        if folder is not None:
            numba_config: Any = config
            numba_config.CACHE_DIR = str(folder)
            try:
                made = _tolerant(numba.njit(**options)(function))
            except RuntimeError as error:
                reason = error
            else:
                _say(f"compiled functions are kept in {folder}: neither the package nor the home can be written")
                return cast(Function, made)
        _say(f"compiled functions are not kept ({reason}); set NUMBA_CACHE_DIR to a folder that can be written")
        return cast(Function, numba.njit(**options | {"cache": False})(function))

    return decorate


def _temporary_folder() -> Path | None:
    """A folder that no other user can write to, since its content is executed; None where there is none."""
    try:
        version = importlib.metadata.version("sglang-dspark")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    try:
        # Named by version, as numba's cache does not know that a function which another one calls has changed.
        folder = Path(tempfile.gettempdir()) / f"sglang-dspark-{version}-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077 and status.st_uid == os.getuid()
    return folder if private else None


def _tolerant(dispatcher: Any) -> Any:
    """Let a function whose cache fails, as on a full disk, be compiled without it."""
    cache = dispatcher._cache
    load, save = cache.load_overload, cache.save_overload

    def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            cache.disable()
            _say(f"compiled functions are not kept ({error}); set NUMBA_CACHE_DIR to a folder that can be written")
            return None

    cache.load_overload = lambda *arguments: attempt(load, *arguments)
    cache.save_overload = lambda *arguments: attempt(save, *arguments)
    return dispatcher


def _say(message: str) -> None:
    """Log once a process for each kind of message."""
    kind = message.split("(")[0]
    if kind not in _logged:
        _logged.add(kind)
        logger.warning(message)
