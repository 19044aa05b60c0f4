"""Classes of requests: the class that a request names, and the keys that prioritised classes require."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sglang_dspark.errors import InputError

CLASS = "slo_class"
KEY = "slo_key"


def read_keys(path: str | None) -> tuple[bytes, ...] | None:
    """Read the keys of callers who may use weighted classes; None where all may.

    Raises:
        InputError: The file cannot be read or holds no key.
    """
    if path is None:
        return None
    try:
        keys = tuple(line.strip().encode() for line in Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--speculative-dspark-class-keys: {path} cannot be read ({error}); give a file") from error
    keys = tuple(key for key in keys if key)
    if not keys:
        raise InputError(f"--speculative-dspark-class-keys: {path} holds no key; write one a line")
    return keys


class Classes:
    """Maps class names of ``policy.json`` to indices.

    A request names its class in ``sampling_params.custom_params["slo_class"]``; unknown or absent means the first
    class, as does a class with a weight above 1 without a key, where keys are configured.
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float], keys: tuple[bytes, ...] | None) -> None:
        self._index = {name: i for i, name in enumerate(names)}
        self._guarded = {name for name, weight in zip(names, weights, strict=False) if weight > 1 and keys is not None}
        self._keys = keys or ()
        self.refused = 0

    def of(self, requests: Sequence[Any], out: NDArray[np.int64]) -> None:
        """Write the class index of each request to ``out`` int64 [R], and cache it on the request."""
        for i, request in enumerate(requests):
            known = request.__dict__.get("dspark_class")
            if known is None or known[0] is not self:
                known = request.dspark_class = (self, self._classify(request.sampling_params.custom_params))
            out[i] = known[1]

    def _classify(self, custom: Any) -> int:
        if not isinstance(custom, dict):
            return 0
        name = custom.get(CLASS)
        if not isinstance(name, str) or name not in self._index:
            return 0
        if name in self._guarded and not self._allowed(custom.get(KEY)):
            self.refused += 1
            return 0
        return self._index[name]

    def _allowed(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        # JSON may carry half a surrogate pair, which has no UTF-8 form.
        given = key.encode("utf-8", "surrogatepass")
        return any(hmac.compare_digest(given, known) for known in self._keys)
