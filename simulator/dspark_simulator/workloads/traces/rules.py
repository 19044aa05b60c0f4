"""Rules that give each request of a trace its class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dspark_simulator.workloads.model import Described
from dspark_simulator.workloads.traces.base import Batch
from dspark_simulator.workloads.traces.values import BoolArray
from sglang_dspark.errors import InputError, validated
from sglang_dspark.parsing import parse_yaml

_COMPARISON = re.compile(r"\s*(<=|>=|<|>)\s*([-+.\deE_]+)\s*")
_OPERATIONS: dict[str, Any] = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}

Condition = str | int | float | bool | tuple[str | int | float, ...]


class Rule(Described):
    """A class and when a request belongs to it.

    Attributes:
        name: The class.
        when: Condition by ``prompt``, ``output`` (tokens) or a column of the file: a comparison as ">= 2000", a value,
            or a list of values. All must hold; no condition always holds.
    """

    name: Annotated[str, Field(min_length=1)]
    when: dict[str, Condition] = Field(default={})


class Rules(Described):
    """Rules in order; the first whose conditions hold gives a request its class."""

    classes: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if self.classes[-1].when:
            raise ValueError("the last class needs no `when`: it takes the requests that no other rule takes")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rule.name for rule in self.classes))

    @property
    def columns(self) -> list[str]:
        """Columns of the file that the rules refer to."""
        used = dict.fromkeys(column for rule in self.classes for column in rule.when)
        return [column for column in used if column not in ("prompt", "output")]

    def classify(self, batch: Batch) -> NDArray[np.int16]:
        """int16 [n]: index of each request's class in ``names``."""
        members = np.full(len(batch.prompt), -1, np.int16)
        for rule in self.classes:
            holds = members == -1
            for column, condition in rule.when.items():
                holds &= _holds(_values(batch, column), condition)
            members[holds] = self.names.index(rule.name)
        return members


def read_rules(path: Path) -> Rules:
    """Read rules from YAML.

    Raises:
        InputError: Not readable, or a field is wrong.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a YAML file of class rules") from error
    return validated(Rules, parse_yaml(text, path), path)


def _values(batch: Batch, column: str) -> NDArray[Any]:
    if column == "prompt":
        return batch.prompt
    if column == "output":
        return batch.output
    if batch.table is None:
        raise InputError(f"class_of: {column!r} is no column of this format; use prompt and output")
    return np.asarray(batch.table[column].to_pylist(), object)


def _holds(values: NDArray[Any], condition: Condition) -> BoolArray:
    if isinstance(condition, tuple):
        return np.isin(values.astype(str), [str(one) for one in condition])
    compared = _COMPARISON.fullmatch(condition) if isinstance(condition, str) else None
    if compared is None:
        return np.asarray(values.astype(str) == str(condition))
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"class_of: {condition!r} compares a column that is no number ({error})") from error
    return np.asarray(_OPERATIONS[compared[1]](numbers, float(compared[2])))
