"""Shapes of models that are known by name."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import NamedTuple

import yaml

from sglang_dspark.shapes.config import KvDtype, shape
from sglang_dspark.shapes.model import DraftShape, ModelShape


class Known(NamedTuple):
    """A target and its DSpark draft."""

    model: ModelShape
    draft: DraftShape


def known(name: str, kv_dtype: KvDtype = "auto") -> Known | None:
    """Shapes of a model by its name, with or without owner and release date; None for unknown models."""
    return _all(kv_dtype).get(re.sub(r"-\d{4}$", "", name.rsplit("/", 1)[-1]))


def names() -> tuple[str, ...]:
    """Names of the known models."""
    return tuple(_all("auto"))


@cache
def _all(kv_dtype: KvDtype) -> dict[str, Known]:
    text = (resources.files("sglang_dspark.shapes") / "data" / "models.yaml").read_text(encoding="utf-8")
    return {
        name: Known(shape(entry["config"], name, kv_dtype), DraftShape.model_validate(entry["draft"]))
        for name, entry in yaml.safe_load(text).items()
    }
