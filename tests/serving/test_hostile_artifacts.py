"""Ten thousand damaged policies: each is accepted, or refused in one line that names the file."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_dspark.errors import MOST_LINES, InputError
from sglang_dspark.policy import Greedy, SpsTable
from sglang_dspark.policy.artifact import dumps
from sglang_dspark.serving.evidence import offline
from sglang_dspark.serving.live_policy import LivePolicy
from sglang_dspark.serving.settings import Settings
from sglang_dspark.serving.steps import Geometry
from tests.serving.harness import FAMILIES

GAMMA = 3
SOURCE = "policy.json"
FLOOR = SpsTable(sample_batch_tokens=(1, 8), sample_steps_per_sec=(90.0, 50.0), max_batch_tokens=64)
SEEDS = [json.loads(dumps(offline.artifact(policy, GAMMA))) for policy in FAMILIES]
SEEDS.append(json.loads(dumps(offline.artifact(Greedy(), GAMMA, cost_belief=FLOOR, classes=("a", "b")))))
MARK = '"-replaced-"'

# As text, for JSON that Python's own writer would not make.
VALUES = (
    "null", "true", "0", "-1", "1", "2", "3.5", "1e308", "-1e308", "1e400", "1e-320", "NaN", "Infinity", "-Infinity",
    "9" * 25, "9" * 400, "9" * 5000, "2147483648", "9223372036854775808", '""', '"x"', '"\\ud800"', '"\\u0000"',
    '"two\\nlines"', "[]", "[[]]", "[null]", "{}", '{"a\\nb": 1}', "[1, 1]", "[1e308, 1e308, 1e308]", "[-1e308, 1e308]",
    "[1, " + "9" * 400 + "]", "[" * 200 + "]" * 200, "[" * 5000 + "]" * 5000, '{"a":' * 300 + "1" + "}" * 300,
    '"' + "y" * 5000 + '"', '["\\u2028"]', '{"family": "two\\nlines"}', '{"family": "fixed", "length": 1}',
)  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def mutate(chance: random.Random) -> bytes:
    """A policy with a few fields removed, added or exchanged, or a file with bytes cut or flipped."""
    content = copy.deepcopy(chance.choice(SEEDS))
    swaps = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        # Half of the damage goes where numbers are computed with.
        part = chance.choice(("policy", "cost_belief")) if chance.random() < 0.5 else None
        found = [p for p in places(content) if p and (part is None or p[0] == part)]
        if not found:
            continue
        *path, key = chance.choice(found)
        parent = content
        for step in path:
            parent = parent[step]
        how = chance.random()
        if how < 0.15:
            del parent[key]
        elif how < 0.25 and isinstance(parent, dict):
            parent[chance.choice(("new", "new\nline", "\ud800", "", "schema_version"))] = "-replaced-"
            swaps.append(chance.choice(VALUES))
        elif how < 0.6 and isinstance(parent[key], float):
            parent[key] *= chance.choice((0.5, 2.0, 1e6, -1.0))
        else:
            parent[key] = "-replaced-"
            swaps.append(chance.choice(VALUES))
    text = json.dumps(content)
    for value in swaps:
        text = text.replace(MARK, value, 1)
    data = bytearray(text.encode())
    if chance.random() < 0.2:
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


@pytest.fixture(scope="module")
def live() -> LivePolicy:
    """A policy in a process; of the planner it needs no more than this."""
    head = SimpleNamespace(sts_temperatures=torch.ones(()))
    host = SimpleNamespace(lag_steps=2)
    planner = SimpleNamespace(
        gamma=GAMMA,
        device="cpu",
        mode_value="compact",
        _is_verify_all=True,
        _confidence_head=head,
        _budget_planner=host,
    )
    text = dumps(offline.artifact(FAMILIES[1], GAMMA)).encode()
    made = LivePolicy(Settings(policy=SOURCE), text, planner, offline.OneRank(), None)
    made.in_force = made.in_force._replace(geometry=Geometry((4, 8, 16, 32), 8))
    return made


def taken(live: LivePolicy, data: bytes) -> bool:
    try:
        live.offer(data)
    except InputError as error:
        message = str(error)
        # A line for each mistake.
        lines = message.splitlines()
        assert 0 < len(lines) <= MOST_LINES and all(line.startswith(SOURCE) for line in lines), message
        assert len(message) < 12_000
        return False
    return True


def test_damage_is_taken_or_refused_in_one_line(live: LivePolicy) -> None:
    tally: Counter[bool] = Counter()

    @given(st.integers(0, 2**64 - 1))
    @settings(max_examples=10_000, deadline=None, database=None)
    def one(seed: int) -> None:
        tally[taken(live, mutate(random.Random(seed)))] += 1

    one()
    assert tally.total() >= 10_000
    assert min(tally[True], tally[False]) > 500, tally  # The damage was of both kinds.


@pytest.mark.parametrize("field", ["gamma", "schema_version", "policy", "cost_belief", "evidence", "new"])
def test_nesting_near_pythons_limit(live: LivePolicy, field: str) -> None:
    content = {name: value for name, value in SEEDS[0].items() if name != field}
    for depth in range(860, 1000):
        nested = "[" * depth + "]" * depth
        assert not taken(live, (json.dumps(content)[:-1] + f', "{field}": {nested}}}').encode())


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: str(seed["policy"]))
def test_the_undamaged_are_taken(live: LivePolicy, seed: dict) -> None:
    assert taken(live, json.dumps(seed).encode())
