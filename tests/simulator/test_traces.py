"""Traces in the forms that people have, read as what they say and nothing else."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspark_simulator.prefixes import prefix_of
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, StepLog, simulate
from dspark_simulator.workloads import Request, RequestClass, Slo, Trace, Workload
from dspark_simulator.workloads.traces import FORMATS, TraceRows, TraceSettings, read_trace
from sglang_dspark.errors import InputError
from tests.simulator.deployment import a_class, a_scenario

BURST_V2 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log
19440161.0,d5983bf9,2,ChatGPT,36,29,65,Conversation log
19440192.0,a5c69b35,8,GPT-4,1779,123,1902,Conversation log
19440254.0,8b74c7d8,3,ChatGPT,935,178,1113,Conversation log
"""
BURST_V1 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
AZURE_INT = "TIMESTAMP,ContextTokens,GeneratedTokens\n19440110,906,446\n19440112,36,29\n19440119,1779,123\n"
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00+00:00,2399,6
2024-05-10 00:00:01.017334+00:00,76,15
"""
AZURE_PANDAS = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46,374.0,44.0
2023-11-16 18:15:50,396.0,109.0
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": [0, 3, 4]}
{"timestamp": 6000, "input_length": 2290, "output_length": 316, "hash_ids": [0, 1, 5]}
"""
BAILIAN = """{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 40, "output_length": 132, "type": "text", "turn": 1, "hash_ids": [7, 8, 9]}
{"chat_id": 160, "parent_chat_id": 159, "timestamp": 62.614, "input_length": 45, "output_length": 13, "type": "text", "turn": 2, "hash_ids": [7, 8, 11]}
"""  # noqa: E501
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n"
SGLANG_BENCH: dict[str, Any] = {
    "backend": "sglang",
    "dataset_name": "sharegpt",
    "request_rate": 4.0,
    "max_concurrency": None,
    "completed": 3,
    "total_input_tokens": 2300,
    "request_throughput": 4.0,
    "input_lens": [900, 700, 700],
    "output_lens": [200, 150, 150],
    "ttfts": [0.1, 0.12, 0.13],
    "itls": [[0.01], [0.01], [0.01]],
    "generated_texts": ["a", "b", "c"],
    "errors": ["", "", ""],
}
VLLM_BENCH = SGLANG_BENCH | {"request_rate": "inf", "start_times": [7.0, 7.5, 9.0], "errors": ["", "timed out", ""]}
SHAREGPT = [
    {
        "id": "QWJhYvA_0",
        "conversations": [
            {"from": "human", "value": "Summarize the main ideas"},
            {"from": "gpt", "value": "Here are some ideas"},
        ],
    }
]


class Right(NamedTuple):
    """What a case says."""

    format: str
    time_s: Sequence[float]
    prompt: Sequence[int]
    output: Sequence[int]
    cached: Sequence[int] | None = None
    said: Sequence[str] = ()


def read(path: Path, text: str, **fields: Any) -> TraceRows:
    path.write_text(text)
    return read_trace(path, TraceSettings(**fields))


CASES = {
    "BurstGPT v2": (
        BURST_V2,
        Right("BurstGPT", [0, 51, 82, 144], [906, 36, 1779, 935], [446, 29, 123, 178], None, ["left out: none"]),
    ),
    "BurstGPT v1": (BURST_V1, Right("BurstGPT", [0, 113], [472, 417], [18, 276], None, ["left out: 1 failed"])),
    "integer seconds": (
        AZURE_INT,
        Right("Azure", [0, 2, 9], [906, 36, 1779], [446, 29, 123], None, ["in 9 s", "relative times in s"]),
    ),
    "Azure 2024": (AZURE_2024, Right("Azure", [0, 0.00993, 1.017334], [2399, 2162, 76], [6, 5, 15], None, ["dates"])),
    "pandas floats": (AZURE_PANDAS, Right("Azure", [0, 4], [374, 396], [44, 109])),
    "Mooncake": (
        MOONCAKE,
        Right("Mooncake", [0, 3, 6], [6758, 7322, 2290], [500, 490, 316], [0, 512, 1024], ["9.4% of prompt tokens"]),
    ),
    # The third block of 8 tokens differs.
    "Bailian": (BAILIAN, Right("Bailian", [0, 1.5], [40, 45], [132, 13], [0, 32], ["blocks of 16"])),
    "relative seconds": (VIDUR, Right("Vidur", [0, 4.314579], [374, 396], [44, 109], None, ["no prefix hits"])),
    "vLLM benchmark": (
        json.dumps(VLLM_BENCH, indent=2),
        Right("benchmark", [0, 2], [900, 700], [200, 150], None, ["left out: 1 failed"]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(case: str, tmp_path: Path) -> None:
    text, right = CASES[case]
    rows = read(tmp_path / "trace", text)
    np.testing.assert_allclose(rows.time_s, right.time_s, rtol=0, atol=1e-9)
    assert (rows.prompt.tolist(), rows.output.tolist()) == (list(right.prompt), list(right.output))
    assert (None if rows.cached is None else rows.cached.tolist()) == right.cached
    for part in (right.format, f"{len(right.prompt)} requests", *right.said):
        assert part in rows.description
    assert "\n" not in rows.description


class TestWithoutTimes:
    def test_a_benchmark_is_sent_at_random_at_its_rate(self, tmp_path: Path) -> None:
        lines = (json.dumps(SGLANG_BENCH) + "\n") * 400
        rows = read(tmp_path / "bench.jsonl", lines)
        assert rows.prompt.tolist() == [900, 700, 700] * 400
        assert rows.rate_per_s == pytest.approx(4.0)
        assert np.diff(rows.time_s).mean() == pytest.approx(0.25, rel=0.1)
        assert "no arrival times: Poisson at 4/s (its request_rate)" in rows.description
        assert "400 runs" in rows.description

    @pytest.mark.parametrize("how", [{"request_rate": float("inf")}, {"max_concurrency": 8}, {"request_rate": "inf"}])
    def test_the_rate_is_not_invented(self, how: dict[str, Any], tmp_path: Path) -> None:
        text = json.dumps(SGLANG_BENCH | how)
        with pytest.raises(InputError, match="has no arrival times; state rate_per_s"):
            read(tmp_path / "bench.jsonl", text)
        assert read(tmp_path / "bench.jsonl", text, rate_per_s=2.0).rate_per_s == pytest.approx(2.0)

    def test_a_benchmark_needs_its_details(self, tmp_path: Path) -> None:
        run = {name: value for name, value in SGLANG_BENCH.items() if name != "input_lens"}
        with pytest.raises(InputError, match=r"run 1: input_lens: missing; .*--output-details"):
            read(tmp_path / "bench.jsonl", json.dumps(run))

    def test_texts_need_a_tokenizer_or_a_ratio(self, tmp_path: Path) -> None:
        text = json.dumps(SHAREGPT)
        with pytest.raises(InputError, match="name a tokenizer, or state chars_per_token"):
            read(tmp_path / "chats.json", text, rate_per_s=1.0)
        with pytest.raises(InputError, match="has no arrival times; state rate_per_s"):
            read(tmp_path / "chats.json", text, chars_per_token=4.0)
        rows = read(tmp_path / "chats.json", text, chars_per_token=4.0, rate_per_s=1.0)
        # 24 and 19 characters.
        assert (rows.prompt.tolist(), rows.output.tolist()) == ([6], [5])
        assert "4 characters a token" in rows.description and "(stated)" in rows.description

    def test_the_first_exchange_of_a_conversation_counts(self, tmp_path: Path) -> None:
        chat = {"messages": [{"role": role, "content": role * 2} for role in ("system", "user", "assistant") * 2]}
        silent = {"messages": [{"role": "user", "content": "?"}]}
        lines = "\n".join(json.dumps(one, indent=1) for one in (chat, silent, chat))
        rows = read(tmp_path / "chats.jsonl", lines, chars_per_token=1.0, rate_per_s=1.0)
        # The texts are joined by a line break.
        assert rows.prompt.tolist() == [len("systemsystem\nuseruser")] * 2
        assert rows.output.tolist() == [len("assistant") * 2] * 2
        assert "2 later ones left out" in rows.description and "left out: 1 no output length" in rows.description

    def test_a_tokenizer_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Words:
            """A tokenizer of words; importing transformers takes ten seconds."""

            @classmethod
            def from_pretrained(cls, name: str) -> Words:
                if name != "words":
                    raise OSError(f"{name} is no folder\nand more")
                return cls()

            def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
                assert not add_special_tokens
                return {"input_ids": [[0] * len(text.split()) for text in texts]}

        monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=Words))
        rows = read(tmp_path / "chats.json", json.dumps(SHAREGPT), tokenizer="words", rate_per_s=1.0)
        assert (rows.prompt.tolist(), rows.output.tolist()) == ([4], [4])
        assert "the tokenizer words" in rows.description
        with pytest.raises(InputError, match="tokenizer: 'letters' cannot be loaded"):
            read(tmp_path / "chats.json", json.dumps(SHAREGPT), tokenizer="letters", rate_per_s=1.0)
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(InputError, match="tokenizer: 'word' needs transformers; pip install"):
            read(tmp_path / "chats.json", json.dumps(SHAREGPT), tokenizer="word", rate_per_s=1.0)

    def test_a_rate_beside_times_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"rate_per_s: 3 is given, but .* has arrival times"):
            read(tmp_path / "trace.csv", VIDUR, rate_per_s=3.0)


# Tables of one's own

OWN = {"arrival": "ts", "prompt": "i", "output": "o"}

NAMES = {"arrival": "ts", "prompt": "in tok", "output": "out,tok", "class": "kind"}
COMPRESSIONS = {
    "none": bytes,
    "gzip": gzip.compress,
    # Concatenated members are one file.
    "gzip in two": lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "lz4": lambda data: pa.compress(data, "lz4", asbytes=True),
    "zip": lambda data: _zipped(data),
}


def _zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("trace", data)
    return out.getvalue()


class Drawn(NamedTuple):
    """A table in a form."""

    micros: list[int]
    prompt: list[int]
    output: list[int]
    kinds: list[str]
    container: str
    times: str
    delimiter: str
    header: bool
    floats: bool
    bom: bool
    newline: str
    compression: str
    order: list[str]


@st.composite
def tables(draw: st.DrawFn) -> Drawn:
    size = draw(st.integers(2, 12))
    tokens = st.lists(st.integers(1, 200_000), min_size=size, max_size=size)
    # The first two rows differ in time, and relative times stay below any epoch.
    micros = draw(st.lists(st.integers(0, 10**13), min_size=size, max_size=size, unique=True))
    return Drawn(
        micros,
        draw(tokens),
        draw(tokens),
        draw(st.lists(st.sampled_from(["chat", "batch job", "é,;"]), min_size=size, max_size=size)),
        draw(st.sampled_from(["csv", "csv", "jsonl", "json", "parquet"])),
        draw(st.sampled_from(["relative", "s", "ms", "us", "ns", "iso", "iso zone", "iso T"])),
        draw(st.sampled_from([",", ";", "\t", "|"])),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(["\n", "\r\n"])),
        draw(st.sampled_from(sorted(COMPRESSIONS))),
        draw(st.permutations(sorted(NAMES))),
    )


def time_of(micros: int, form: str) -> float | int | str:
    base = 1_700_000_000_000_000
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=base + micros)
    match form:
        case "relative":
            return micros / 1e6
        case "s":
            return round((base + micros) / 1e6, 6)
        case "ms":
            return (base + micros) / 1e3
        case "us":
            return base + micros
        case "ns":
            return (base + micros) * 1000
        case "iso":
            return moment.replace(tzinfo=None).isoformat(" ")
        case "iso zone":
            return moment.astimezone().isoformat(" ")
        case _:
            return moment.isoformat("T").replace("+00:00", "Z")


def content(table: Drawn) -> bytes:
    """The table in its form, written by the standard library and pandas."""
    number = float if table.floats else int
    columns: dict[str, list[Any]] = {
        "arrival": [time_of(micros, table.times) for micros in table.micros],
        "prompt": [number(tokens) for tokens in table.prompt],
        "output": [number(tokens) for tokens in table.output],
        "class": table.kinds,
    }
    rows = [dict(zip(NAMES.values(), row, strict=True)) for row in zip(*(columns[r] for r in NAMES), strict=True)]
    names = [NAMES[role] for role in table.order]
    if table.container == "csv":
        text = io.StringIO()
        writer = csv.writer(text, delimiter=table.delimiter, lineterminator=table.newline)
        if table.header:
            writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in rows)
        encoded = text.getvalue().encode("utf-8-sig" if table.bom else "utf-8")
    elif table.container == "parquet":
        out = io.BytesIO()
        pd.DataFrame(rows)[names].to_parquet(out)
        return out.getvalue()
    elif table.container == "jsonl":
        encoded = "".join(json.dumps({name: row[name] for name in names}) + table.newline for row in rows).encode()
    else:
        encoded = json.dumps(rows, indent=1 if table.floats else None).encode()
    packed: bytes = COMPRESSIONS[table.compression](encoded)
    return packed


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_a_table_in_any_form_is_the_same_requests(tmp_path: Path, table: Drawn) -> None:
    path = tmp_path / "table"
    path.write_bytes(content(table))
    headless = table.container == "csv" and not table.header
    columns = {role: str(table.order.index(role) + 1) if headless else name for role, name in NAMES.items()}
    rows = read_trace(path, TraceSettings(columns=columns))
    order = np.argsort(table.micros)
    expected_s = (np.array(table.micros)[order] - min(table.micros)) / 1e6
    # A float64 of nanoseconds since 1970 holds a quarter of a microsecond.
    np.testing.assert_allclose(rows.time_s, expected_s, rtol=0, atol=1e-6)
    assert rows.prompt.tolist() == np.array(table.prompt)[order].tolist()
    assert rows.output.tolist() == np.array(table.output)[order].tolist()
    assert rows.slo_class is not None
    assert [rows.class_names[index] for index in rows.slo_class] == np.array(table.kinds, object)[order].tolist()
    assert rows.cached is None and "no prefix hits" in rows.description


@pytest.mark.parametrize(
    ("fields", "text", "time_s"),
    [
        ({"time_unit": "ms"}, "0,9,1\n1500,8,1\n", [0, 1.5]),
        ({"delimiter": " "}, "0 9 1\n1500 8 1\n", [0, 1500]),
        ({"delimiter": ";"}, "0;9;1\n1500;8;1\n", [0, 1500]),
    ],
)
def test_what_settings_state(fields: dict[str, str], text: str, time_s: list[float], tmp_path: Path) -> None:
    rows = read(tmp_path / "t", text, columns={"arrival": "1", "prompt": "2", "output": 3}, **fields)
    assert rows.time_s.tolist() == time_s and rows.prompt.tolist() == [9, 8]


def test_columns_of_nested_json(tmp_path: Path) -> None:
    lines = [{"at": k, "usage": {"prompt_tokens": 10 + k, "completion_tokens": 3}} for k in range(3)]
    columns = {"arrival": "at", "prompt": "usage.prompt_tokens", "output": "usage.completion_tokens"}
    rows = read(tmp_path / "log.jsonl", "\n".join(map(json.dumps, lines)), columns=columns)
    assert rows.prompt.tolist() == [10, 11, 12]


def test_stated_cache_hits(tmp_path: Path) -> None:
    columns = {"arrival": "t", "prompt": "p", "output": "o", "cached": "c"}
    rows = read(tmp_path / "log.csv", "t,p,o,c\n0,10,2,0\n1,20,2,16\n2,5,2,5\n", columns=columns)
    # The last position is always computed.
    assert rows.cached is not None and rows.cached.tolist() == [0, 16, 4]


def test_rows_left_out_are_counted(tmp_path: Path) -> None:
    text = "ts,i,o\n0,10,1\n1,,2\n2,7,\n,7,3\n3,0,3\n4,8,nan\n"
    rows = read(tmp_path / "t.csv", text, columns={"arrival": "ts", "prompt": "i", "output": "o"})
    assert rows.prompt.tolist() == [10, 1]
    said = "left out: 1 no arrival time, 1 no prompt length, 2 no output length"
    assert said in rows.description and "1 lengths of 0 count as 1" in rows.description


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_can_be_forced(name: str, tmp_path: Path) -> None:
    """A file that another format fits is refused by what it lacks, not read as something else."""
    with pytest.raises(InputError, match="trace"):
        read(tmp_path / "trace", "a,b\n1,2\n3,4\n", format=name)


@pytest.mark.parametrize(
    ("text", "fields", "said"),
    [
        (VIDUR, {"format": "vidor"}, ["format: 'vidor' is not known", "vidur"]),
        ("ts,i,o\n1,2,3\n", {}, ["no known trace (it has ts, i, o)", "arrival=ts"]),
        ("ts,i,o\n1,2,3\n", {"columns": {"arrival": "ts", "prompt": "in", "output": "o"}}, ["column in is missing"]),
        (VIDUR.replace("4.314579", "1700000000"), {}, []),
        (
            "ts,i,o\n0,2,3\n1700000000,2,3\n",
            {"columns": OWN},
            ["time_unit"],
        ),
        ("ts,i,o\n1,2,3\n1e12,2,3\n", {"columns": OWN}, ["time_unit"]),
        (
            "ts,i,o\n1,2,3\nnow,2,3\n",
            {"columns": OWN},
            ["row 2: ts: 'now'"],
        ),
        (VIDUR + "5,1e12,1\n", {}, ["row 3: num_prefill_tokens: '1e12'"]),
        (MOONCAKE[:-30], {}, ["is damaged"]),
        ("[1, 2]", {}, ["where an object is expected"]),
        ("[" + json.dumps(SHAREGPT[0]) + ", {", {"chars_per_token": 4, "rate_per_s": 1}, ["is no JSON"]),
    ],
)
def test_wrong_input_is_named(text: str, fields: dict[str, Any], said: list[str], tmp_path: Path) -> None:
    if not said:
        # Stated seconds may be of any size.
        assert read(tmp_path / "trace", text, **fields).span_s == 1_700_000_000
        return
    with pytest.raises(InputError) as caught:
        read(tmp_path / "trace", text, **fields)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize("form", ["gzip", "bz2", "xz", "zstd"])
def test_a_file_that_was_cut_is_refused(form: str, tmp_path: Path) -> None:
    whole = COMPRESSIONS[form](b"".join(b"%d,5,6\n" % n for n in range(20_000)))
    (tmp_path / "t").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"/t: "):
        read_trace(tmp_path / "t", TraceSettings(columns={"arrival": "1", "prompt": "2", "output": "3"}))


# Classes

SLO = Slo(ttft_s=1.0, tpot_s=0.1)
RULES = """classes:
- {name: long, when: {prompt: ">= 900", Model: [GPT-4, GPT-5]}}
- {name: short, when: {output: "< 100"}}
- {name: rest}
"""


def test_rules_give_classes(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    rows = read(tmp_path / "trace.csv", BURST_V2, class_of=tmp_path / "rules.yaml")
    assert rows.slo_class is not None
    assert [rows.class_names[index] for index in rows.slo_class] == ["long", "short", "long", "rest"]
    assert "classes long 50%, short 25%, rest 25%" in rows.description


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("classes: [{name: a, when: {prompt: '> 3'}}]", "the last class needs no `when`"),
        ("classes: [{name: a, when: {gone: 3}}, {name: b}]", "column gone is missing"),
        ("classes: [{name: a, when: {Model: '> 3'}}, {name: b}]", "compares a column that is no number"),
        ("[", "not YAML"),
    ],
)
def test_wrong_rules(rules: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rules)
    with pytest.raises(InputError, match=said):
        read(tmp_path / "trace.csv", BURST_V2, class_of=tmp_path / "rules.yaml")


def test_classes_of_a_trace_are_those_of_the_scenario(tmp_path: Path) -> None:
    read(tmp_path / "trace.csv", BURST_V2)
    columns = {"arrival": "Timestamp", "prompt": "Request tokens", "output": "Response tokens", "class": "Model"}
    trace = Trace(path=tmp_path / "trace.csv", columns=columns)
    classes = tuple(RequestClass(name=name, domain="chat", slo=SLO) for name in ("ChatGPT", "GPT-4"))
    rows = next(Workload(arrivals=trace, classes=classes).chunks(0, 6))
    assert rows["slo_class"].tolist() == [1, 0, 1, 0, 1, 0]
    assert Workload(arrivals=trace, classes=classes).class_counts(0, 0, 3) == [1, 2]
    with pytest.raises(ValueError, match="the trace has class 'GPT-4'"):
        Workload(arrivals=trace, classes=classes[:1])


# Prefix hashes


def reference_hits(prompts: Sequence[int], hashes: Sequence[Sequence[int]], tokens: int) -> list[int]:
    """Hits of an unlimited cache: the longest common start with an earlier request, as sets of block positions say."""
    seen: set[int] = set()
    hits = []
    for prompt, ids in zip(prompts, hashes, strict=True):
        leading = next((place for place, one in enumerate(ids) if one not in seen), len(ids))
        hits.append(min(leading * tokens, prompt - 1))
        seen |= set(ids)
    return hits


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.lists(st.integers(0, 12), max_size=6)), min_size=2, max_size=15),
    st.sampled_from([1, 2**40, 2**59]),
)
def test_hits_by_block(tmp_path: Path, requests: list[tuple[int, list[int]]], scale: int) -> None:
    """In the order of arrival, whatever that of the file and the size of the hashes."""
    requests[0] = (-1, requests[0][1])
    lengths = [16 * max(len(ids), 1) - 3 for _, ids in requests]
    lines = [
        {"timestamp": at, "input_length": n, "output_length": 1, "hash_ids": [one * scale - (scale > 1) for one in ids]}
        for (at, ids), n in zip(requests, lengths, strict=True)
    ]
    rows = read(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)), block_tokens=16)
    order = np.argsort([at for at, _ in requests], kind="stable")
    prompts, hashes = [lengths[k] for k in order], [requests[k][1] for k in order]
    assert rows.prompt.tolist() == prompts
    assert rows.cached is not None and rows.cached.tolist() == reference_hits(prompts, hashes, 16)


@pytest.mark.parametrize("name", [str, lambda number: number + 2**63 + 2**62, lambda number: -number - 1])
def test_hashes_of_any_kind(name: Callable[[int], Any], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in MOONCAKE.splitlines()]
    lines = [line | {"hash_ids": [name(number) for number in line["hash_ids"]]} for line in lines]
    rows = read(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)))
    assert rows.cached is not None and rows.cached.tolist() == [0, 512, 1024]


def test_replicas_cache_the_blocks_they_served(tmp_path: Path) -> None:
    """Four requests with the same two blocks, alternately at two replicas: each reads the blocks once."""
    lines = [
        {"timestamp": 60_000 * k, "input_length": 1100, "output_length": 2, "hash_ids": [5, 6, 10 + k]}
        for k in range(4)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    trace = Trace(path=tmp_path / "t.jsonl")
    for router, read_tokens in (("round_robin", [1100, 1100, 76, 76]), ("prefix_aware", [1100, 76, 76, 76])):
        scenario = a_scenario(trace, a_class(100, 2), requests=4, replicas=2, router=router)
        log: list[StepLog] = []
        simulate(scenario, Arm("plain", Server(speculative=False)), log=log)
        assert [step.prefill_tokens for step in log if step.prefill_tokens][:4] == read_tokens
    # The trace starts anew with other texts.
    workload = Workload(arrivals=trace, classes=(a_class(100, 2),))
    blocks = [prefix_of(workload, Request(k, 0.0, 1100, 2, 0, 0), 0) for k in (0, 1, 4)]
    assert all(prefix is not None and [tokens for _, tokens in prefix] == [512, 512, 76] for prefix in blocks)
    keys = [[block for block, _ in prefix or ()] for prefix in blocks]
    assert keys[0][:2] == keys[1][:2] and not set(keys[0]) & set(keys[2])


def test_a_trace_without_hashes_keeps_the_classes_own_prefixes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(VIDUR)
    klass = a_class(100, 2).model_copy(update={"cached_prefix": 0.5})
    workload = Workload(arrivals=Trace(path=tmp_path / "t.csv"), classes=(klass,))
    assert next(workload.chunks(0, 2))["cached"].tolist() == [187, 198]
