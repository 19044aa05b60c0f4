"""Models that are known by name: shapes of target and published DSpark draft, and their names on Hugging Face.

``data/models.json`` has for each model its ``owner`` on Hugging Face, the ``release`` that its bare name stands for,
other names (``also``), the fields of its public ``config.json`` that a shape needs with their ``source``, and the same
of its ``draft``, unless the target's checkpoint has the draft. Lists of unquantised modules have only those that count.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

from sglang_dspark.errors import InputError
from sglang_dspark.shapes import draft as drafts
from sglang_dspark.shapes.config import KvDtype, shape
from sglang_dspark.shapes.draft import USUAL, Draft
from sglang_dspark.shapes.model import DraftShape, ModelShape

# Endings of names whose models have the same shape and storage.
_ENDINGS: Final = ("Instruct", "Base", "Thinking", "Chat", "it", "hf")
_ENDING: Final = re.compile(rf"-(\d{{4}}|{'|'.join(_ENDINGS)})$", re.IGNORECASE)
_FP8: Final = "-fp8"


class Known(NamedTuple):
    """A target and its DSpark draft.

    Attributes:
        name: The known name.
        id: The target on Hugging Face, SGLang's model path. Of a model with several releases, one that contains the
            draft.
        model: Shape of the target.
        draft: Shape of its published draft; None if none was published.
        draft_id: The draft on Hugging Face, SGLang's draft model path; None if none was published, or the target's
            checkpoint contains it.
        bundled: The target's checkpoint contains the draft.
        confidence_head: Whether the draft has a confidence head; true if none was published.
        draft_in_sglang: Whether SGLang 0.5.23 can load the draft; false if none was published.
        draft_source: Where the draft's configuration was read; empty if none was published.
    """

    name: str
    id: str
    model: ModelShape
    draft: DraftShape | None
    draft_id: str | None
    bundled: bool
    confidence_head: bool
    draft_in_sglang: bool
    draft_source: str

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
    found = _read(entry, kv_dtype)
    usual_owner, release = found.id.split("/")
    if short.casefold() == entry.casefold() and (found.bundled or not owner):
        short = release
    spelled = _spelled(short, entry)
    if spelled not in (entry, release):
        # Releases of one shape differ in it: Qwen3-30B-A3B has 40,960 tokens, its releases of 2507 have 262,144.
        found = found._replace(model=found.model.model_copy(update={"context_length": None}))
    return found._replace(id=f"{owner or usual_owner}/{spelled}")


def names() -> tuple[str, ...]:
    """Names of the known models."""
    return tuple(_all())


def unknown(name: str, where: str = "model") -> InputError:
    """Error for a name that is not known, with similar ones.

    Args:
        where: The field that has it.
    """
    by_fold = _by_fold()
    similar = difflib.get_close_matches(name.rpartition("/")[2].casefold(), by_fold, cutoff=0.75)
    if similar:
        others = f"did you mean {' or '.join(dict.fromkeys(by_fold[one] for one in similar))}?"
    else:
        others = f"known are {', '.join(names())}."
    return InputError(f"{where}: {name!r} is not known by name; {others} Otherwise give its config.json")


def _entry(short: str) -> str | None:
    """The known name of a model's name without owner."""
    folded = short.casefold()
    stored = _FP8 if folded.endswith(_FP8) else ""
    while folded not in _by_fold():
        plain = folded.removesuffix(stored)
        shorter = _ENDING.sub("", plain)
        if shorter == plain:
            return None
        folded = shorter + stored
    return _by_fold()[folded]


def _spelled(short: str, entry: str) -> str:
    """A name as Hugging Face spells it."""
    listed = (
        entry,
        *_all()[entry].get("also", ()),
        *([_all()[entry]["release"]] if "release" in _all()[entry] else []),
    )
    for one in listed:
        if one.casefold() == short.casefold():
            return str(one)
    base = entry.removesuffix("-FP8")
    ends = short[len(base) :]
    for one in (*_ENDINGS, "FP8"):
        ends = re.sub(f"-{one}(?=-|$)", f"-{one}", ends, flags=re.IGNORECASE)
    return base + ends


@cache
def _all() -> Mapping[str, Mapping[str, Any]]:
    text = (resources.files("sglang_dspark.shapes") / "data" / "models.json").read_text(encoding="utf-8")
    models: dict[str, Mapping[str, Any]] = json.loads(text)
    return models


@cache
def _by_fold() -> Mapping[str, str]:
    """Known names by all of their spellings, folded."""
    folded = {other.casefold(): name for name, entry in _all().items() for other in entry.get("also", ())}
    return folded | {name.casefold(): name for name in _all()}


@cache
def _read(name: str, kv_dtype: KvDtype) -> Known:
    entry = _all()[name]
    model = shape(entry["config"], name, kv_dtype)
    own = entry.get("draft", {})
    draft: Draft | None = None
    if own:
        draft = drafts.parse(own["config"], own["id"], model, kv_dtype)
    elif drafts.is_bundled(entry["config"]):
        draft = drafts.parse(entry["config"], name, model, kv_dtype)
    return Known(
        name=name,
        id=f"{entry['owner']}/{entry.get('release', name)}",
        model=model,
        draft=draft.shape if draft else None,
        draft_id=own.get("id"),
        bundled=draft is not None and draft.bundled,
        confidence_head=draft is None or draft.confidence_head,
        draft_in_sglang=draft is not None and draft.in_sglang,
        draft_source=own.get("source", entry["source"] if draft else ""),
    )
