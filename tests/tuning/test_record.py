"""Recording a stock server: nothing counted twice, nothing lost in silence, and what it does not record said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_tuning.measuring.recording.ours import Ours
from dspark_tuning.measuring.recording.record import source
from dspark_tuning.measuring.recording.schema import read
from dspark_tuning.measuring.recording.stock import Stock
from sglang_dspark.errors import InputError
from sglang_dspark.sglang_client import Client, UnansweredError
from tests.tuning.command import dspark
from tests.tuning.served import GAMMA, Fake, fake, step


@pytest.fixture
def server() -> Iterator[Fake]:
    with fake() as told:
        told.tellable = {"dspark_clear_info_records"}
        yield told


def stock(server: Fake) -> Stock:
    found = source(Client(server.url))
    assert isinstance(found, Stock)
    return found


def numbers(table: Any) -> list[int]:
    return list(table["step"].to_pylist())


def test_steps_come_once_and_in_order(server: Fake) -> None:
    server.records([])
    recording = stock(server)
    server.records([step(1), step(2, step_cpu_ms=None), step(4, verify_tokens_graph_key=8)])
    steps, lost = recording.poll()
    assert numbers(steps) == [1, 2, 4] and lost == 0, "3 was a prefill, which is not recorded"
    assert steps["step_s"].to_pylist() == [0.005, None, 0.005]
    assert steps["verify_tokens"].to_pylist() == [6, 6, 6] and steps["budget"].to_pylist() == [4, 4, 4]
    assert steps["segment"].to_pylist() == [0, 0, 0] and steps["mode"].to_pylist() == ["upstream"] * 3
    # Not cleared meanwhile: the same again, and one more.
    server.records([step(4), step(5)])
    steps, lost = recording.poll()
    assert numbers(steps) == [5] and lost == 0 and steps["segment"].to_pylist() == [0]


def test_what_runs_between_answer_and_clearing_is_counted(server: Fake) -> None:
    server.records([])
    recording = stock(server)
    server.records([step(1), step(2)])
    recording.poll()
    server.records([step(6), step(7)])
    steps, lost = recording.poll()
    assert numbers(steps) == [6, 7] and lost == 3
    assert steps["segment"].to_pylist() == [1, 1], "no difference is taken across the gap"


def test_a_server_that_began_anew_is_another_segment(server: Fake) -> None:
    server.records([])
    recording = stock(server)
    server.records([step(50)])
    recording.poll()
    server.records([step(3), step(4)])
    steps, lost = recording.poll()
    assert numbers(steps) == [3, 4] and steps["segment"].to_pylist() == [1, 1]
    assert recording.restarts == 1 and lost == 0


def test_lengths_and_confidences_of_a_full_dump(server: Fake, tmp_path: Path) -> None:
    temperatures = tmp_path / "sts.json"
    temperatures.write_text(json.dumps({"temperatures": [2.0, 1.0, 0.5]}))
    server.info["speculative_dspark_confidence_sts_path"] = str(temperatures)
    every = ("core", "step_cpu_time", "step_gpu_time", "draft_gpu_time", "target_verify_gpu_time", "reqs")
    server.records([], every)
    recording = stock(server)
    request = {"prefix_len": 40, "verify_len": 3, "acc_len": 2, "rid": "a", "confidence": [0.5, 0.8, 0.8]}
    server.records([step(1, num_running_reqs=1, draft_gpu_ms=1.5, target_verify_gpu_ms=4.0, reqs=[request])], every)
    (row,) = recording.poll().steps.to_pylist()
    assert row["verify_length"] == [2] and row["verify_tokens"] == 3, "upstream counts the anchor"
    assert row["accepted_length"] == [2] and row["context_tokens"] == 40 and row["rid"] == ["a"]
    assert (row["draft_s"], row["verify_s"]) == (0.0015, 0.004)
    # Logit times temperature: 0, log 4, log(4) / 2.
    assert row["confidence"] == pytest.approx([0.5, 0.8, 2 / 3], abs=1e-4)


class Upstream:
    """The records of a server that goes on running while it is asked."""

    def __init__(self, server: Fake) -> None:
        self.server, self.kept, self.ran = server, list[dict[str, Any]](), 0
        server.records(self.kept)

    def run(self, steps: int) -> None:
        self.kept += [step(self.ran + i + 1) for i in range(steps)]
        self.ran += steps

    def clear(self, between: int, arrives: bool) -> None:
        """What happens when the clearing comes, if it does, after so many more steps."""
        self.run(between)
        if arrives:
            self.kept.clear()


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_no_step_is_told_twice_or_lost_in_silence(turns: list[tuple[int, bool, int]]) -> None:
    """A turn is some steps, whether the clearing arrives, and how many steps run before it does."""
    with fake() as server:
        server.tellable = {"dspark_clear_info_records"}
        upstream = Upstream(server)
        recording = stock(server)
        told, lost = list[int](), 0
        for steps, arrives, between in turns:
            upstream.run(steps)
            server.cleared = partial(upstream.clear, between, arrives)
            found = recording.poll()
            told += numbers(found.steps)
            lost += found.lost
        assert told == sorted(set(told))
        assert len(told) + lost == told[-1], "every step up to the last that was told is told or counted"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.tellable.clear(), "serves without speculation, which records no steps"),
        (
            lambda s: (s.tellable.clear(), s.info.update(speculative_algorithm="EAGLE")),
            "speculative_algorithm: EAGLE is not recorded",
        ),
        (lambda s: s.states[0].pop("dspark_info_record"), "start it with SGLANG_DSPARK_ENABLE_SPS_RECORD=1"),
        (lambda s: s.records([], ("step_cpu_time",)), "SGLANG_DSPARK_DEBUG_DUMP: step_cpu_time leaves out core"),
    ],
)
def test_servers_that_record_nothing_are_refused_with_a_remedy(
    server: Fake, tmp_path: Path, change: Any, said: str
) -> None:
    server.records([])
    change(server)
    ran = dspark("record", "--url", server.url, "--out", tmp_path / "run.parquet", "--seconds", 1)
    assert ran.code == 2 and said in ran.err and not list(tmp_path.iterdir())


def test_what_is_recorded_in_part_is_said(server: Fake) -> None:
    server.records([])
    said = " ".join(stock(server).about(0).partial)
    for part in ("Prefills:", "Draft and verify times:", "verify and accepted lengths and confidences: they need"):
        assert part in said


def test_command_writes_what_calibrate_reads(server: Fake, tmp_path: Path) -> None:
    server.records([])
    sent = iter(range(1, 400, 4))

    def more() -> None:
        first = next(sent)
        server.records([step(first + i) for i in range(4)])

    server.cleared = more
    out = tmp_path / "run.parquet"
    ran = dspark("record", "--url", server.url, "--out", out, "--seconds", 3, "--json").json()
    record = read([out])
    assert len(record.steps) == ran["decodes"] > 0 and record.gamma == GAMMA
    assert record.abouts[0].source == "sglang" and record.abouts[0].engine == "0.5.23"


def test_polls_that_fail_are_tried_again_and_counted(server: Fake, tmp_path: Path) -> None:
    server.records([])
    recording = stock(server)
    server.records([step(1)])
    server.broken = 1
    with pytest.raises(UnansweredError):
        recording.poll()
    assert numbers(recording.poll().steps) == [1]


@pytest.mark.parametrize("url", ["localhost:30000", "ftp://host", "http://", "http://host:port"])
def test_addresses_that_are_none_are_refused(url: str, tmp_path: Path) -> None:
    ran = dspark("record", "--url", url, "--out", tmp_path / "run.parquet", "--seconds", 1)
    assert ran.code == 2 and "--url" in ran.err and ran.err.count("\n") == 1


def test_nobody_there_and_nowhere_to_write(server: Fake, tmp_path: Path) -> None:
    ran = dspark("record", "--url", "http://127.0.0.1:9", "--out", tmp_path / "run.parquet", "--seconds", 1)
    assert ran.code == 2 and "does not answer as SGLang does" in ran.err
    (tmp_path / "file").write_text("")
    ran = dspark("record", "--url", server.url, "--out", tmp_path / "file" / "run.parquet", "--seconds", 1)
    assert ran.code == 2 and "cannot be written" in ran.err


def test_several_ranks_of_the_plugin_are_refused(server: Fake) -> None:
    server.tellable.add("dspark_policy_record")
    server.states = [{"startup_time": 1.0}, {"startup_time": 2.0}]
    with pytest.raises(InputError, match="dp_size: 2 is not supported"):
        Ours(Client(server.url), server.info | {"internal_states": server.states})
