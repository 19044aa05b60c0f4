"""``policy.json``: refusals, and equality after writing and reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_dspark.errors import InputError
from sglang_dspark.policy import EagerTimes, SpsAdditiveTable, SpsTable, Threshold
from sglang_dspark.policy.artifact import Artifact, Provenance, diff, dumps, load, parse, save
from sglang_dspark.policy.belief import sps_json

ARTIFACT = Artifact(
    policy=Threshold(running=(1, 32), theta=(0.1, 0.4), fill=True),
    gamma=7,
    classes=("chat",),
    sts_temperatures=(1.0,) * 7,
    cost_belief=SpsAdditiveTable(
        bias_seconds=0.01, bs_probes=(1,), alpha_seconds=(0.001,), m_probes=(1, 8), theta_seconds=(0.005, 0.006)
    ),
    server_flags={"--max-running-requests": "128"},
    advice="Serve with DSpark.",
    provenance=Provenance(
        scenario="s",
        hardware="h",
        model="m",
        engine="sglang",
        workload={"kind": "closed"},
        slo={"chat": {"ttft_s": 1.0}},
        objective="throughput",
        simulator_version="0.1.0",
        truths={"overhead_s": [0.0, 0.01]},
        seeds={"search": [0, 4]},
        trials=10,
        search_space={"theta": [0, 1]},
    ),
    evidence=(),
)
CONTENT: dict[str, Any] = json.loads(dumps(ARTIFACT))


def changed(*path: str, value: Any) -> str:
    content = json.loads(json.dumps(CONTENT))
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return json.dumps(content)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "policy.json"
    save(ARTIFACT, path)
    assert load(path) == ARTIFACT
    assert path.read_text() == dumps(load(path))
    assert [p.name for p in path.parent.iterdir()] == ["policy.json"]
    assert list(CONTENT) == sorted(CONTENT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("schema_version", value=3), r"^p: schema_version: '3' is not 1 or 2; tune again"),
        (changed("schema_version", value=True), r"^p: schema_version: 'True' is not 1 or 2"),
        (changed("extra", value=1), r"^p: extra: unknown field"),
        (changed("policy", "thetta", value=1), r"^p: policy\.thetta: unknown field"),
        (changed("policy", "theta", value=[0.1]), r"differ in length"),
        (changed("policy", "family", value="magic"), r"^p: policy.family: 'magic' .*give one of 'none'"),
        (changed("gamma", value=5), r"sts_temperatures has 7 entries for gamma 5"),
        (changed("sts_temperatures", value=[1] * 6 + [0]), r"^p: sts_temperatures\.6: 0 is not valid"),
        (changed("cost_belief", "m_probes", value=[8, 1]), r"must strictly increase, but 1 follows 8"),
        (changed("cost_belief", "bias_seconds", value=float("nan")), r"bias_seconds: nan is not valid"),
        ("", r"^p: not JSON"),
        ("[1]", r"^p: holds no fields"),
        ('{"schema_version": 1', r"^p: not JSON"),
        ("{}", r"^p: schema_version: missing"),
        ("[" * 100_000, r"^p: not JSON"),
    ],
)
def test_a_wrong_artifact_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(text, "p")
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_artifact_is_read_or_refused(data: st.DataObject) -> None:
    text = dumps(ARTIFACT)
    start = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 30))
    damaged = text[:start] + data.draw(st.text(max_size=5)) + text[start + length :]
    try:
        parse(damaged, "p")
    except InputError as error:
        assert all(line.startswith("p: ") for line in error.lines)


def test_the_previous_version_is_read() -> None:
    content = json.loads(json.dumps(CONTENT))
    content["schema_version"] = 1
    del content["cost_belief"]["eager"]
    assert parse(json.dumps(content), "p") == ARTIFACT


def test_what_an_eager_step_costs_is_in_the_artifact_and_not_in_a_table_for_sglang() -> None:
    eager = EagerTimes(tokens=(1, 64), seconds=(0.04, 0.05), request_s=1e-5)
    for table in (
        ARTIFACT.cost_belief,
        SpsTable(sample_batch_tokens=(1,), sample_steps_per_sec=(9.0,), max_batch_tokens=1),
    ):
        belief = table.model_copy(update={"eager": eager})
        artifact = ARTIFACT.model_copy(update={"cost_belief": belief})
        assert parse(dumps(artifact), "p").cost_belief.eager == eager
        assert sps_json(belief) == sps_json(table) and "eager" not in json.loads(sps_json(belief))


@pytest.mark.parametrize(
    ("eager", "message"),
    [
        ({"tokens": [8, 1], "seconds": [1, 1]}, "must strictly increase, but 1 follows 8"),
        ({"tokens": [1], "seconds": [1, 1]}, "tokens and seconds differ in length"),
        ({"tokens": [1], "seconds": [0]}, r"cost_belief\.eager\.seconds\.0: 0 is not valid"),
    ],
)
def test_wrong_eager_times_are_refused(eager: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(changed("cost_belief", "eager", value=eager), "p")


def test_diff_names_what_changed() -> None:
    other = ARTIFACT.model_copy(update={"gamma": 5, "policy": Threshold(running=(1, 32), theta=(0.1, 0.5))})
    assert diff(ARTIFACT, ARTIFACT) == []
    assert diff(ARTIFACT, other) == [
        ("gamma", "7", "5"),
        ("policy.fill", "true", "false"),
        ("policy.theta", "[0.1, 0.4]", "[0.1, 0.5]"),
    ]


def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save(ARTIFACT, blocked / "policy.json")
