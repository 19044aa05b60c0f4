"""A stage: failing, hanging and skipped cells, and the comparison of answers."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sglang_dspark.gpu_check import environment
from sglang_dspark.gpu_check.engine import judged
from sglang_dspark.gpu_check.stage import Stage
from sglang_dspark.local_server import first_tokens, reference
from sglang_dspark.local_server.closed_loop import Answer, Answers, Prompt


class Stopped:
    """A server that notes when it is ended."""

    ended = False

    def stop(self) -> None:
        self.ended = True


def kept(stage: Stage) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((stage.out / "engine.json").read_text())
    return content


def test_a_cell_that_fails_stops_no_other(tmp_path: Path) -> None:
    stage = Stage("engine", tmp_path, 100.0, True)
    assert stage.run("one", lambda: 1 / 0) is None
    assert stage.run("two", lambda: 7) == 7
    content = kept(stage)
    assert content["device"] == "cpu rehearsal"
    assert content["cells"]["one"]["failed"] == "ZeroDivisionError: division by zero"
    assert content["cells"]["two"]["result"] == 7


def test_a_cell_that_hangs_ends_its_server_and_what_needs_it(tmp_path: Path) -> None:
    stage, server = Stage("engine", tmp_path, 100.0, True), Stopped()

    def hang() -> None:
        while not server.ended:
            time.sleep(0.01)
        raise ConnectionError("gone")

    server_: Any = server
    stage.run("hangs", hang, server_, limit_s=0.1)
    assert stage.run("next", lambda: 1, server_) is None
    cells = kept(stage)["cells"]
    assert cells["hangs"]["hung"] and "gone" in cells["hangs"]["failed"]
    assert cells["next"] == {"skipped": "its server has ended"}


def test_without_time_nothing_starts(tmp_path: Path) -> None:
    stage = Stage("engine", tmp_path, 0.0, True)
    assert stage.run("late", lambda: 1) is None
    with stage.server("late too", {}) as server:
        assert server is None
    content = kept(stage)
    assert content["cells"]["late"] == content["servers"]["late too"] == {"skipped": "no time left"}


def test_a_server_that_does_not_start_leaves_its_log(tmp_path: Path) -> None:
    stage = Stage("engine", tmp_path, 100.0, True)
    with stage.server("none", {"--model-path": str(tmp_path / "absent"), "--no-such-flag": ""}) as server:
        assert server is None
    assert "no-such-flag" in kept(stage)["servers"]["none"]["failed"]
    assert (tmp_path / "none.log").exists()


def test_gpu_servers_find_the_stand_in_before_anything_else(tmp_path: Path) -> None:
    variables = environment.gpu(tmp_path, tmp_path / "cache")
    first, second, *_ = variables["PYTHONPATH"].split(":")
    assert first == environment.STAND_IN
    entries = (Path(second) / "dspark_gpu_check-0.dist-info" / "entry_points.txt").read_text()
    assert "dspark_gpu_check = sglang_dspark.gpu_check.plugin:register" in entries


# --- what is equal


def answers(*ids: list[int]) -> Answers:
    prompt = Prompt("def f(x):\n    return", 4, "code")
    return Answers(tuple(Answer(prompt, "", tuple(tokens), 1, (0, 1), 0.1) for tokens in ids), 1.0)


def test_a_token_that_differs_is_a_fault_unless_bfloat16_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [[5, 6, 7], [5, 6, 7], [5, 6, 7]]
    seen: list[tuple[int, int]] = []

    def tie(ids: list[int], one: int, other: int) -> tuple[float, float]:
        seen.append((one, other))
        assert ids[-1] == 5
        return (0.01, 0.02) if one == 8 else (0.5, 0.02)

    monkeypatch.setattr(reference, "tie", tie)
    found = judged(expected, answers([5, 6, 7], [5, 8, 1], [5, 9, 7]))
    assert seen == [(8, 6), (9, 6)]
    assert (found["equal"], len(found["ties"]), len(found["faults"])) == (1, 1, 1)
    assert not found["passes"]
    assert not judged(expected[:1], answers([5, 6]))["passes"]


def test_bfloat16_tells_the_best_token_from_the_worst() -> None:
    ids = reference.tokenizer()("def f(x):\n    return")["input_ids"]
    logits = reference.next_logits(ids)
    apart, moved = reference.tie(ids, int(logits.argmax()), int(logits.argmin()))
    assert apart == pytest.approx(float(logits.max() - logits.min()))
    assert apart > 5 * moved
    same, allowed = reference.tie(ids, 3, 3)
    assert same == 0 and allowed > 0


def test_two_servers_of_one_distribution_pass_and_of_two_do_not() -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(40))

    def drawn(chances: Any) -> Counter[tuple[int, ...]]:
        return Counter((int(cell),) for cell in rng.choice(40, 20_000, p=chances))

    assert first_tokens.compare(drawn(shares), drawn(shares)).p_value > 1e-3
    other = 0.9 * shares + 0.1 * np.roll(shares, 1)
    assert first_tokens.compare(drawn(shares), drawn(other)).p_value < 1e-6
