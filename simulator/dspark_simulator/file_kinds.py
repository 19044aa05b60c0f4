"""What a file is, by content: the message for a file that is given in the place of another kind.

A new kind is an entry of ``KINDS``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sglang_dspark.errors import InputError

# Larger files of fields are none of ours.
_MOST_BYTES = 1 << 22


class Kind(NamedTuple):
    """A kind of files of fields.

    Attributes:
        title: What it is.
        used: Which command takes it.
        has: Whether a file with these fields is one.
    """

    title: str
    used: str
    has: Callable[[dict[str, Any]], bool]


def _fields(*names: str) -> Callable[[dict[str, Any]], bool]:
    return lambda content: set(names) <= content.keys()


KINDS: dict[str, Kind] = {
    "sts": Kind(
        "the confidence temperatures (STS) of a draft",
        "SGLang reads them, and `dspark calibrate` writes them beside a profile",
        lambda content: "temperatures" in content and "domains" not in content,
    ),
    "sps": Kind(
        "an SPS table of step times",
        "SGLang reads it, and a scenario's cost names it as its file",
        lambda content: "sample_batch_tokens" in content or "bs_probes" in content,
    ),
    "profile": Kind(
        "a profile of `dspark calibrate`",
        "`dspark simulate` and `dspark tune` take it as their profile",
        _fields("schema_version", "cost", "acceptance", "residuals"),
    ),
    "policy": Kind(
        "a policy artifact of `dspark tune`",
        "`dspark simulate` takes it as its policy, and `dspark policy show` prints it",
        _fields("schema_version", "policy", "server_flags"),
    ),
    "acceptance": Kind(
        "an acceptance model",
        "`dspark simulate` and `dspark tune` take it as their acceptance",
        _fields("domains", "slope", "bias"),
    ),
    "plan": Kind("a plan", "`dspark plan` takes it", lambda content: "choices" in content and "workload" in content),
    "rules": Kind(
        "class rules",
        "commands that read a trace take them as its class_of",
        lambda content: content.keys() == {"classes"} and isinstance(content["classes"], list),
    ),
    "scenario": Kind(
        "a scenario",
        "`dspark simulate`, `dspark tune` and `dspark plan` take it as their argument",
        lambda content: "workload" in content and bool({"base", "cost", "profile"} & content.keys()),
    ),
    "config": Kind(
        "a model's config.json",
        "`dspark scenario new` takes it as its config",
        lambda content: bool({"architectures", "model_type", "hidden_size"} & content.keys()),
    ),
}


def check_fields(path: Path, wanted: str) -> bool:
    """Refuse a file of fields that is evidently of another kind.

    Args:
        path: A file, which need not exist.
        wanted: Name in ``KINDS``, or ``recording`` or ``trace``.

    Returns:
        Whether the file is of the wanted kind, as far as its fields say.

    Raises:
        InputError: It is a file of another kind; the message says which, and which command takes it.
    """
    name = kind_of_fields(path)
    if name is not None and name != wanted:
        raise InputError(f"{path}: is {KINDS[name].title}, not {title(wanted)}; {KINDS[name].used}")
    return name is not None


def kind_of_fields(path: Path) -> str | None:
    """Name in ``KINDS`` of a file of fields, JSON or YAML; None for any other."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            return None
        text = data.decode("utf-8-sig")
        content = json.loads(text) if text.lstrip()[:1] in ("{", "[") else _yaml(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(content, dict):
        return None
    return next((name for name, kind in KINDS.items() if kind.has(content)), None)


def _yaml(text: str) -> Any:
    # A table is no mapping; YAML would take long to say so.
    return yaml.safe_load(text) if ":" in text[:2000] else None


def title(wanted: str) -> str:
    """The kind in words."""
    titles = {"recording": "a recording of `dspark record`", "trace": "a request trace"}
    return titles[wanted] if wanted in titles else KINDS[wanted].title
