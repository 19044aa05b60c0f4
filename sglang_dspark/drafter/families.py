"""The families of drafters: one line each in ``FAMILIES``."""

from __future__ import annotations

from typing import Any, NamedTuple

from sglang_dspark.drafter.base import Drafter
from sglang_dspark.drafter.block import BlockDrafter, DFlashShape, DSparkShape
from sglang_dspark.drafter.config import DraftConfig
from sglang_dspark.drafter.eagle3 import Eagle3Drafter, Eagle3Shape
from sglang_dspark.drafter.shape import DraftShape
from sglang_dspark.errors import InputError, did_you_mean, validated


class Family(NamedTuple):
    """The ``draft`` block of a family's recipes, and its model with the configuration that the model reads."""

    shape: type[DraftShape]
    drafter: type[Drafter[Any]]


FAMILIES: dict[str, Family] = {
    "dspark": Family(DSparkShape, BlockDrafter),
    "dflash": Family(DFlashShape, BlockDrafter),
    "eagle3": Family(Eagle3Shape, Eagle3Drafter),
}
"""Families by the name that recipes give them."""


def parse_shape(content: object) -> DraftShape:
    """Parse the ``draft`` block of a recipe.

    Raises:
        InputError: The family is unknown, or a field is missing, unknown or out of range.
    """
    if isinstance(content, DraftShape):
        return content
    name = content.get("family") if isinstance(content, dict) else None
    if name not in FAMILIES:
        hint = did_you_mean(name, FAMILIES)
        raise InputError(f"draft: family: {name!r} is not known; use one of {', '.join(FAMILIES)}{hint}")
    return validated(FAMILIES[name].shape, content, "draft")


def drafter_class(architecture: str) -> type[Drafter[Any]]:
    """Return the model of an entry of ``architectures`` in ``config.json``.

    Raises:
        InputError: No family reads it.
    """
    known = {name: family.drafter for family in FAMILIES.values() for name in family.drafter.config_class.STYLES}
    if architecture not in known:
        raise InputError(f"architectures: {architecture!r} is not a draft; use one of {', '.join(known)}")
    return known[architecture]


def make(config: DraftConfig) -> Drafter[Any]:
    """Make a drafter with torch's default initial weights."""
    return drafter_class(config.architecture)(config)
