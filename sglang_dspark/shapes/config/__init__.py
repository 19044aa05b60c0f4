"""Shape of a model from its Hugging Face ``config.json``, by its fields and not by the name of the architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.config import class_defaults
from sglang_dspark.shapes.config.reading import KvDtype, Reading
from sglang_dspark.shapes.fields import mapping
from sglang_dspark.shapes.model import ModelShape

SIDE_FILE: Final = "hf_quant_config.json"

__all__ = ["SIDE_FILE", "KvDtype", "loaded", "read", "shape"]


def read(path: Path, kv_dtype: KvDtype = "auto") -> ModelShape:
    """Read the shape of a config file, and the quantisation of a side file ``hf_quant_config.json`` if there is one.

    Args:
        kv_dtype: Type of the KV cache; ``auto`` is the checkpoint's, or bf16 if it sets none.

    Raises:
        InputError: Not readable, not JSON, lacks fields that a shape needs, or has an unsupported layout.
    """
    whole = loaded(path, "give a model's config.json")
    side = path.parent / SIDE_FILE
    if not whole.get("quantization_config") and side.is_file():
        beside = loaded(side, "give the file of the checkpoint, or remove it")
        whole["quantization_config"] = mapping(side, "quantization", beside.get("quantization"))
    return shape(whole, path, kv_dtype)


def shape(whole: Mapping[str, Any], source: Path | str, kv_dtype: KvDtype = "auto") -> ModelShape:
    """Shape of a config's content; see :func:`read`.

    Args:
        source: Name of the config in messages.
    """
    reading = Reading(whole, source, kv_dtype)
    reading.run()
    if reading.fields.missing or reading.open:
        complete = class_defaults.filled(whole)
        if complete is not None:
            reading = Reading(whole, source, kv_dtype, complete)
            reading.run()
        elif reading.open and not class_defaults.installed():
            reading.fields.missing += reading.open
    if reading.fields.missing:
        raise reading.incomplete()
    return reading.validated()


def loaded(path: Path, remedy: str) -> dict[str, Any]:
    """Fields of a JSON file.

    Args:
        remedy: End of the message for a file that is no such thing.

    Raises:
        InputError: Not readable, not JSON, or without fields.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no fields; {remedy}")
    return content
