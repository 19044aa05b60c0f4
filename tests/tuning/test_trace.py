"""``dspark trace`` and the options that say how a trace is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from dspark_simulator.workloads import Workload
from dspark_simulator.workloads.traces import read_trace
from dspark_tuning.measuring.traces.fit import fit_lengths
from dspark_tuning.measuring.traces.statistics import figures
from tests.published_data import published
from tests.tuning.command import dspark

CODE, CONV = published("azure_llm_2023_code.csv"), published("azure_llm_2023_conv.csv")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_figures_are_those_of_the_table() -> None:
    table = pd.read_csv(CODE, parse_dates=["TIMESTAMP"])
    seconds = (table["TIMESTAMP"] - table["TIMESTAMP"].min()).dt.total_seconds()
    gaps = seconds.diff().dropna()
    found = figures(read_trace(CODE))
    assert found.requests == len(table)
    assert found.gap_cv == pytest.approx(gaps.std(ddof=0) / gaps.mean(), rel=1e-6)
    # Minutes after the first request, without the last part of one.
    assert found.peak_per_s == (seconds // 60).value_counts().loc[lambda n: n.index < seconds.max() // 60].max() / 60
    assert found.prompt.p99 == pytest.approx(np.percentile(table["ContextTokens"], 99))
    assert (found.output.mean, found.output.max) == (
        pytest.approx(table["GeneratedTokens"].mean()),
        table["GeneratedTokens"].max(),
    )
    assert found.hit_share is None and found.classes == ()


def test_describe_names_classes_and_hits() -> None:
    lines = [
        {"timestamp": k, "input_length": 100 * (k + 1), "output_length": 2, "hash_ids": [1], "kind": "ab"[k % 2]}
        for k in range(4)
    ]
    Path("t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("rules.yaml").write_text("classes: [{name: a, when: {kind: a}}, {name: other}]")
    ran = dspark("trace", "describe", "t.jsonl", "--class-of", "rules.yaml", "--time-unit", "s")
    assert ran.code == 0, ran.err
    for part in ("4 requests in 3 s", "relative times in s", "Output, a (50.0%)", "classes a 50%, other 50%"):
        assert part in ran.out
    found = dspark("trace", "describe", "t.jsonl", "--class-of", "rules.yaml", "--json").json()
    # All of a prompt but its last token.
    assert found["hit_share"] == pytest.approx((199 + 299 + 399) / 1000)
    assert [(one["name"], one["share"], one["prompt"]["mean"]) for one in found["classes"]] == [
        ("a", 0.5, 200),
        ("other", 0.5, 300),
    ]


@pytest.mark.parametrize("path", [CODE, CONV])
def test_a_sample_is_as_bursty_as_the_trace(path: Path) -> None:
    found = dspark("trace", "sample", path, "--out", "s.csv", "--requests", 2000, "--seed", 3, "--json").json()
    whole, sample = found["whole"], found["sample"]
    assert sample["requests"] == 2000
    for name in ("gap_cv", "rate_per_s"):
        assert sample[name] == pytest.approx(whole[name], rel=0.15)
    assert sample["prompt"]["mean"] == pytest.approx(whole["prompt"]["mean"], rel=0.15)
    # Successive requests, as they were.
    rows, first = read_trace(path), found["first"]
    again = read_trace(Path("s.csv"))
    assert again.prompt.tolist() == rows.prompt[first : first + 2000].tolist()
    np.testing.assert_allclose(again.time_s, rows.time_s[first : first + 2000] - rows.time_s[first], atol=1e-8)
    text = Path("s.csv").read_bytes()
    dspark("trace", "sample", path, "--out", "s.csv", "--requests", 2000, "--seed", 3)
    assert Path("s.csv").read_bytes() == text


@pytest.mark.parametrize("extra", [{}, {"chat_id": 1}])
def test_a_sample_keeps_prefix_hashes(extra: dict[str, int]) -> None:
    lines = [
        extra | {"timestamp": k * k, "input_length": 1600, "output_length": 2, "hash_ids": [1, k % 3]} for k in range(9)
    ]
    Path("t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = dspark("trace", "sample", "t.jsonl", "--out", "s.jsonl", "--requests", 9, "--json").json()
    assert found["sample"] == found["whole"]
    assert read_trace(Path("s.jsonl")).blocks is not None


def test_a_fitted_workload_has_the_rate_the_burstiness_and_the_lengths() -> None:
    ran = dspark("trace", "fit", CONV, "--domain", "chat", "--ttft", 0.5, "--tpot", 0.02)
    assert ran.code == 0, ran.err
    workload = Workload.model_validate(yaml.safe_load(ran.out)["workload"])
    rows, table = next(workload.chunks(1, 40_000)), pd.read_csv(CONV)
    whole = figures(read_trace(CONV))
    gaps = np.diff(rows["arrival_s"])
    assert 1 / gaps.mean() == pytest.approx(whole.rate_per_s, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(whole.gap_cv, rel=0.03)
    for field, column in (("prompt", "ContextTokens"), ("output", "GeneratedTokens")):
        assert stats.ks_2samp(rows[field], table[column]).statistic < 0.06
        assert rows[field].mean() == pytest.approx(table[column].mean(), rel=0.03)
    (klass,) = workload.classes
    assert (klass.domain, klass.slo.ttft_s, klass.slo.tpot_s) == ("chat", 0.5, 0.02)
    assert "as given" in ran.out


def test_what_a_trace_does_not_say_is_marked() -> None:
    assert "where not given as in b300-v4flash; set them" in dspark("trace", "fit", CONV).out


def test_lognormal_lengths_are_found() -> None:
    tokens = np.maximum(np.random.default_rng(1).lognormal(6.0, 0.8, 50_000).round(), 1).astype(np.int32)
    fitted = fit_lengths(tokens).distribution
    assert fitted.model_dump()["kind"] == "lognormal"
    assert fitted.model_dump()["sigma"] == pytest.approx(0.8, rel=0.02)
    assert fit_lengths(np.full(9, 7)).distribution.model_dump() == {"kind": "fixed", "tokens": 7}


class TestOptions:
    def test_the_line_is_printed_beside_the_result(self) -> None:
        Path("own.tsv").write_text("when\tin\tout\n" + "".join(f"{1.7e12 + 900 * k:.0f}\t50\t5\n" for k in range(30)))
        columns = "arrival=when,prompt=in,output=out"
        model = ["--model", "deepseek-v4-flash", "--gpu", "B300", "--tp", 4]
        ran = dspark("scenario", "new", *model, "--trace", "own.tsv", "--columns", columns, "--json")
        assert ran.json()["workload"]["arrivals"]["columns"] == {"arrival": "when", "prompt": "in", "output": "out"}
        assert "own.tsv: table; 30 requests in 26.1 s (1.11/s)" in ran.err and "epoch times in ms" in ran.err

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--columns", "arrival"], "--columns: 'arrival' is not valid; write arrival=ts"),
            (["--columns", "when=3"], "--columns: 'when' is not known"),
            (["--trace-format", "cvs"], "--trace-format: 'cvs' is not known"),
            (["--chars-per-token", "-1"], "--chars-per-token: -1.0 is not valid"),
            ([], "give --tokenizer, or state --chars-per-token"),
            (["--chars-per-token", "4"], "has no arrival times; state --trace-rate"),
        ],
    )
    def test_errors_name_options(self, options: list[str], said: str) -> None:
        Path("chats.json").write_text(
            '[{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'
        )
        for command in (["simulate", "--trace"], ["trace", "describe"]):
            ran = dspark(*command, "chats.json", *options)
            assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1

    def test_options_need_a_trace(self) -> None:
        assert (
            "--class-of, --trace-rate: given without --trace"
            in dspark("simulate", "--trace-rate", "3", "--class-of", "r.yaml").err
        )

    def test_a_scenario_that_is_written_finds_its_trace(self) -> None:
        Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,5,5\n")
        model = ["--model", "deepseek-v4-flash", "--gpu", "B300", "--tp", 4]
        ran = dspark("scenario", "new", *model, "--trace", "t.csv", "--out", "deep/s.yaml")
        assert ran.code == 0, ran.err
        checked = dspark("scenario", "check", "deep/s.yaml")
        assert checked.code == 0 and "t.csv: plain table; 2 requests" in checked.err


STS = '{"temperatures": [1.5, 1.2], "dataset": "x", "num_samples": 9, "ece_before": [0.1, 0.1], "ece_after": [0, 0]}'
WRONG_KINDS = {
    "sts.json": STS,
    "table.csv": "ts,in,out\n1,2,3\n",
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n2,3,4\n",
    "mooncake.jsonl": '{"timestamp": 0, "input_length": 6, "output_length": 5, "hash_ids": [0]}\n',
    "config.json": '{"architectures": ["M"], "hidden_size": 8}',
    "plan.yaml": "name: p\nworkload: {}\nchoices: []\n",
}


@pytest.mark.parametrize(
    ("command", "file", "said"),
    [
        (["calibrate"], "azure.csv", ["a request trace (Azure table), not a recording", "`dspark trace describe`"]),
        (["calibrate"], "mooncake.jsonl", ["a request trace (Mooncake JSON lines), not a recording"]),
        (["calibrate"], "table.csv", ["a table of ts, in, out, not a recording", "if its columns are named"]),
        (["calibrate"], "sts.json", ["confidence temperatures (STS)", "not a recording", "SGLang reads them"]),
        (["simulate", "--acceptance"], "sts.json", ["confidence temperatures (STS)", "not an acceptance model"]),
        (["simulate", "--acceptance"], "azure.csv", ["a request trace (Azure table), not an acceptance model"]),
        (["simulate", "--profile"], "config.json", ["a model's config.json, not a profile", "`dspark scenario new`"]),
        (["simulate", "--policy"], "sts.json", ["(STS)", "not a policy artifact"]),
        (["simulate"], "plan.yaml", ["a plan, not a scenario; `dspark plan` takes it"]),
        (["simulate"], "mooncake.jsonl", ["a request trace (Mooncake JSON lines), not a scenario", "as their trace"]),
        (["simulate", "--trace"], "sts.json", ["(STS)", "not a request trace"]),
        (["trace", "describe"], "config.json", ["a model's config.json, not a request trace"]),
    ],
)
def test_a_file_of_another_kind_is_named(command: list[str], file: str, said: list[str]) -> None:
    Path(file).write_text(WRONG_KINDS[file])
    ran = dspark(*command, file)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1, ran.err
    for part in (f"{file}: is ", *said):
        assert part in ran.err
