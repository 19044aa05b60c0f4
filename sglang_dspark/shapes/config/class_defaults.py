"""Defaults of fields that a config omits, from the configuration classes of ``transformers`` if it is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

INSTALL: Final = "pip install 'sglang-dspark[shapes]'"


def installed() -> bool:
    """Whether transformers is installed."""
    return find_spec("transformers") is not None


def filled(whole: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config completed with the defaults of its class, by ``model_type``; None without a class for it.

    Reads no files and uses no network.
    """
    model_type = whole.get("model_type")
    if not isinstance(model_type, str) or not installed():
        return None
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return None
    try:
        # Quantisation is read from the file only; here it would need more libraries.
        made = CONFIG_MAPPING[model_type].from_dict({k: v for k, v in whole.items() if k != "quantization_config"})
        values: dict[str, Any] = made.to_dict()
    except Exception:  # Each class validates its arguments in a different way.
        return None
    return values
