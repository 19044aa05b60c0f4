"""Every mistake of a file in a line of its own, suggestions for misspelled names, and keys that are given twice."""

from __future__ import annotations

import json
import pickle
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from sglang_dspark.errors import MOST_LINES, InputError, validated
from sglang_dspark.parsing import parse_json, parse_yaml


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Square(Strict):
    kind: Literal["square"]
    side: int


class Circle(Strict):
    kind: Literal["circle"]
    radius: int


class Animal(Strict, ABC):
    family: str

    @abstractmethod
    def sound(self) -> str: ...


class Cat(Animal):
    family: str = "cat"
    whiskers: int = 0

    def sound(self) -> str:
        return "meow"


class Drawing(Strict):
    title: str
    colour: Literal["red", "green"] = "red"
    shapes: tuple[Annotated[Square | Circle, Field(discriminator="kind")], ...] = ()
    named: dict[str, Square] = {}
    pet: Animal | None = None


UNKNOWN = "unknown field (value 1); "
SPELLING = UNKNOWN + "remove it or check its spelling"


def refused(content: Any, also: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(InputError) as caught:
        validated(Drawing, content, "a.yaml", also=also)
    return list(caught.value.lines)


def test_every_mistake_has_a_line() -> None:
    square = {"kind": "square", "side": 1.5}
    assert refused({"colour": "gren", "shapes": [square, {"kind": "circle", "raduis": 1}], "tilte": "x"}) == [
        "a.yaml: title: missing; add the field",
        "a.yaml: colour: 'gren' is not valid; input should be 'red' or 'green'; did you mean green?",
        "a.yaml: shapes.0.side: 1.5 is not valid; input should be a valid integer, got a number with a fractional part",
        "a.yaml: shapes.1.radius: missing; add the field",
        "a.yaml: shapes.1.raduis: unknown field (value 1); did you mean radius?",
        "a.yaml: tilte: unknown field (value 'x'); did you mean title?",
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"shapes": [{"kind": "cirle"}]}, "shapes.0.kind: 'cirle' is not valid; give one of 'square', 'circle'; did"),
        ({"shapes": [{"radius": 1}]}, "shapes.0.kind: missing; add the field"),
        # A field of the other kind is no suggestion.
        ({"shapes": [{"kind": "circle", "radius": 1, "sides": 1}]}, f"shapes.0.sides: {SPELLING}"),
        (
            {"named": {"title": {"kind": "square", "side": 1, "sid": 1}}},
            f"named.title.sid: {UNKNOWN}did you mean side?",
        ),
        ({"Title": 1}, f"Title: {UNKNOWN}did you mean title?"),
        ({"qqq": 1}, f"qqq: {SPELLING}"),
        ({"basis": 1}, f"basis: {UNKNOWN}did you mean base?"),
        ({"pet": {"family": "cat", "wiskers": 1}}, f"pet.wiskers: {UNKNOWN}did you mean whiskers?"),
    ],
)
def test_a_misspelled_name(content: dict[str, Any], line: str) -> None:
    lines = refused({"title": "t"} | content, also=("base",))
    assert any(found.startswith(f"a.yaml: {line}") for found in lines), lines


def test_many_mistakes_end_with_their_number() -> None:
    lines = refused({"title": "t"} | {f"x{i}": i for i in range(MOST_LINES + 5)})
    assert len(lines) == MOST_LINES
    assert lines[-1] == "a.yaml: 6 more mistakes; correct these first"


def test_an_error_keeps_its_lines_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("one\nline", "two")))
    assert error.lines == ("one line", "two")
    assert str(error) == "one line\ntwo"


LETTERS = st.characters(codec="utf-8", categories=("L", "N"))
KEYS = st.text(LETTERS, min_size=1, max_size=3)
TREES = st.recursive(
    st.none() | st.integers() | st.text(LETTERS, max_size=3),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(KEYS, inside, max_size=3),
    max_leaves=12,
)


@given(TREES)
def test_files_without_duplicates_are_read_as_the_standard_parsers_do(tree: Any) -> None:
    assert parse_yaml(yaml.safe_dump(tree, allow_unicode=True), "f") == tree
    assert parse_json(json.dumps(tree), "f") == tree


@given(st.lists(KEYS, max_size=3), st.booleans(), KEYS, TREES, TREES)
def test_a_key_given_twice_is_refused_at_any_depth(path: list[str], mapped: bool, key: str, one: Any, two: Any) -> None:
    name, first, second = (json.dumps(part, ensure_ascii=False) for part in (key, one, two))
    text = f"{{{name}: {first},\n {name}: {second}}}"
    for part in reversed(path):
        outer = json.dumps(part, ensure_ascii=False)
        text = f"{{{outer}: {text}}}" if mapped else f"{{{outer}: [0, {text}]}}"
    field = ".".join([part if mapped else f"{part}.1" for part in path] + [key])
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "f")
    assert caught.value.lines == (f"f: {field}: given in line 1 and again in line 2; keep one",)
    with pytest.raises(InputError) as caught:
        parse_json(text, "f")
    assert caught.value.lines == (f"f: {key}: given twice in one object; keep one",)


def test_a_merged_mapping_may_be_overridden() -> None:
    text = "usual: &u {a: 1, b: 2}\nnested: &n\n  <<: *u\n  b: 3\nlast:\n  deep: {<<: *n, b: 4}\nagain: *n\n"
    assert parse_yaml(text, "f") == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["a: [", "x: !!python/object/apply:os.abort []", "[" * 100_000, "a: \x00"])
def test_what_is_no_yaml_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"^f: not YAML \(.*\); correct the syntax$") as caught:
        parse_yaml(text, "f")
    assert len(caught.value.lines) == 1
