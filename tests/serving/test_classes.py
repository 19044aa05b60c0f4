"""Classes of requests, and the keys that prioritised classes require."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sglang_dspark.errors import InputError
from sglang_dspark.serving.classes import Classes, read_keys

NAMES, WEIGHTS = ("default", "chat", "batch"), (1.0, 3.0, 0.5)


def request(custom: Any) -> Any:
    return SimpleNamespace(sampling_params=SimpleNamespace(custom_params=custom))


def found(classes: Classes, *custom: Any) -> list[int]:
    out = np.full(len(custom), -1)
    classes.of([request(one) for one in custom], out)
    return out.tolist()


def test_unknown_absent_and_malformed_names_are_the_first_class() -> None:
    classes = Classes(NAMES, WEIGHTS, None)
    malformed = (None, {}, [], "chat", {"slo_class": None}, {"slo_class": ["chat"]}, {"slo_class": 1})
    assert found(classes, *malformed, {"slo_class": "gold"}) == [0] * 8
    assert found(classes, {"slo_class": "batch"}, {"slo_class": "chat"}) == [2, 1]
    assert classes.refused == 0


def test_only_classes_above_weight_one_need_a_key() -> None:
    classes = Classes(NAMES, WEIGHTS, (b"secret", b"other"))
    assert found(classes, {"slo_class": "batch"}, {"slo_class": "chat", "slo_key": "other"}) == [2, 1]
    assert classes.refused == 0
    assert found(classes, {"slo_class": "chat"}, {"slo_class": "chat", "slo_key": "secre"}) == [0, 0]
    assert classes.refused == 2


@pytest.mark.parametrize("key", [b"secret", 7, None, ["secret"], {"a": 1}, "\ud800", "é", "", "x" * 100_000], ids=repr)
def test_no_key_that_a_request_can_carry_stops_the_scheduler(key: Any) -> None:
    assert found(Classes(NAMES, WEIGHTS, (b"secret",)), {"slo_class": "chat", "slo_key": key}) == [0]


def test_an_answer_is_kept_for_its_policy_only() -> None:
    first, second = Classes(NAMES, WEIGHTS, (b"k",)), Classes(("default", "batch", "chat"), (1.0, 1.0, 1.0), None)
    one, out = request({"slo_class": "chat"}), np.zeros(1, np.int64)
    for _ in range(3):
        first.of([one], out)
    assert out.tolist() == [0] and first.refused == 1  # Asked once.
    second.of([one], out)
    assert out.tolist() == [2]


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    assert read_keys(None) is None
    path.write_text("\n one \n\ntwo\n")
    assert read_keys(str(path)) == (b"one", b"two")
    for content in (b"\n \n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"--speculative-dspark-class-keys: {path}"):
            read_keys(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(str(tmp_path / "none"))
