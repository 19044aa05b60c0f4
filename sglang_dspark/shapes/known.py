"""Models that are known by name: shapes of target and published DSpark draft, and their names on Hugging Face."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

import yaml

from sglang_dspark.errors import InputError
from sglang_dspark.shapes.config import KvDtype, shape
from sglang_dspark.shapes.draft import USUAL
from sglang_dspark.shapes.model import DraftShape, ModelShape

# Endings of names whose models have the same shape and storage.
_ENDINGS: Final = ("Instruct", "Base", "Thinking", "Chat", "it", "hf")
_SUFFIX: Final = re.compile(rf"-(\d{{4}}|{'|'.join(_ENDINGS)})$", re.IGNORECASE)


class Known(NamedTuple):
    """A target and its DSpark draft.

    Attributes:
        name: The known name.
        id: The target on Hugging Face, SGLang's model path.
        model: Shape of the target.
        draft: Shape of its published draft; None if there is none.
        draft_id: The draft on Hugging Face, SGLang's draft model path; None if the target's checkpoint contains the
            draft or none was published.
        bundled: The target's checkpoint contains the draft.
        confidence_head: Whether the draft has a confidence head; of :data:`USUAL` if none was published.
    """

    name: str
    id: str
    model: ModelShape
    draft: DraftShape | None
    draft_id: str | None
    bundled: bool
    confidence_head: bool

    @property
    def assumed_draft(self) -> DraftShape:
        """The published draft, or the usual one."""
        return self.draft or USUAL


def known(name: str, kv_dtype: KvDtype = "auto") -> Known | None:
    """A model by its name, in any case, with or without owner, release date and endings like ``-Instruct``.

    Returns:
        The model under the given owner and release; None for an unknown one.
    """
    owner, _, short = name.rpartition("/")
    entry = _entry(short)
    if entry is None:
        return None
    found = _shapes(entry, kv_dtype)
    ends = short[len(entry) :]
    for one in _ENDINGS:
        ends = re.sub(f"-{one}(?=-|$)", f"-{one}", ends, flags=re.IGNORECASE)
    return found._replace(id=f"{owner or found.id.partition('/')[0]}/{entry}{ends}")


def names() -> tuple[str, ...]:
    """Names of the known models."""
    return tuple(_all())


def unknown(name: str, where: str = "model") -> InputError:
    """Error for a name that is not known, with similar ones.

    Args:
        where: The field that has it.
    """
    by_fold = {one.casefold(): one for one in names()}
    similar = difflib.get_close_matches(name.rpartition("/")[2].casefold(), by_fold, cutoff=0.75)
    meant = (
        f"did you mean {' or '.join(by_fold[one] for one in similar)}?" if similar else f"known: {', '.join(names())};"
    )
    return InputError(f"{where}: {name!r} is not known by name; {meant} Otherwise give its config.json")


def _entry(short: str) -> str | None:
    """The known name of a model's name without owner."""
    by_fold = {one.casefold(): one for one in names()}
    folded = short.casefold()
    while folded not in by_fold:
        shorter = _SUFFIX.sub("", folded)
        if shorter == folded:
            return None
        folded = shorter
    return by_fold[folded]


@cache
def _all() -> Mapping[str, Mapping[str, Any]]:
    text = (resources.files("sglang_dspark.shapes") / "data" / "models.yaml").read_text(encoding="utf-8")
    models: dict[str, Mapping[str, Any]] = yaml.safe_load(text)
    return models


@cache
def _shapes(entry: str, kv_dtype: KvDtype) -> Known:
    content = _all()[entry]
    draft = dict(content.get("draft") or {})
    sizes = {name: draft[name] for name in DraftShape.model_fields if name in draft}
    return Known(
        name=entry,
        id=f"{content['owner']}/{entry}",
        model=shape(content["config"], entry, kv_dtype),
        draft=DraftShape.model_validate(sizes) if sizes else None,
        draft_id=draft.get("id"),
        bundled=bool(draft.get("bundled", False)),
        confidence_head=bool(draft.get("confidence_head", True)),
    )
