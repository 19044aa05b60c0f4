"""Loading a server: the requests sent, and the figures from client times."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dspark_simulator.scenario import Run
from dspark_simulator.workloads import Workload
from dspark_tuning.measuring.calibrate import plain
from dspark_tuning.measuring.load import request_rows
from dspark_tuning.measuring.load.drive import Loaded, drive
from dspark_tuning.measuring.load.prompts import PromptSpec
from dspark_tuning.measuring.load.request import SentRequest
from dspark_tuning.measuring.load.result import result
from sglang_dspark.errors import InputError
from sglang_dspark.sglang_client import Client
from tests.tuning.command import dspark
from tests.tuning.served import Fake, fake

CLASSES = [
    {
        "name": name,
        "domain": "gsm8k",
        "prompt": {"kind": "uniform", "min": 4, "max": 9},
        "output": {"kind": "fixed", "tokens": 6},
        "slo": {"ttft_s": 0.5, "tpot_s": 0.1},
    }
    for name in ("chat", "code")
]


def workload(clients: int | None = 3) -> Workload:
    closed = {"kind": "closed", "clients": clients}
    arrivals = closed if clients else {"kind": "poisson", "rate_per_s": 200.0}
    return Workload.model_validate({"arrivals": arrivals, "classes": CLASSES})


@pytest.fixture
def server() -> Iterator[Fake]:
    with fake() as told:
        yield told


def test_a_closed_loop_sends_the_simulators_requests(server: Fake) -> None:
    loaded = drive(Client(server.url), workload(), Run(requests=20, warmup_requests=5, drain=True), seed=3)
    spec = next(workload().chunks(3, 20))
    assert [r.id for r in loaded.requests] == list(range(20)) and not loaded.failed
    assert [r.prompt_tokens for r in loaded.requests] == spec["prompt"].tolist()
    assert [r.slo_class for r in loaded.requests] == spec["slo_class"].tolist()
    assert [r.measured for r in loaded.requests] == [False] * 5 + [True] * 15
    assert all(r.output_tokens == 6 and r.chunk_tokens.tolist() == [1] * 6 for r in loaded.requests)
    assert {body["sampling_params"]["custom_params"]["slo_class"] for body in server.asked} == {"chat", "code"}
    assert all(body["sampling_params"]["ignore_eos"] and body["stream"] for body in server.asked)
    assert loaded.requests[0].verify_lengths == (1, 0, 1) and loaded.requests[0].rounds == 2


def test_prompts_are_a_function_of_the_seed(server: Fake) -> None:
    told = []
    for seed in (3, 3, 4):
        server.asked.clear()
        drive(Client(server.url), workload(1), Run(requests=5, warmup_requests=0, drain=True), seed=seed)
        told.append([body["input_ids"] for body in server.asked])
    assert told[0] == told[1] != told[2]


def test_texts_are_cut_and_prolonged_to_length(server: Fake) -> None:
    texts = {"chat": ["abc", "de"], "code": ["xyz"]}
    drive(Client(server.url), workload(1), Run(requests=6, warmup_requests=0, drain=True), prompts=texts)
    for body in server.asked:
        text = "".join(chr(token) for token in body["input_ids"])
        endless = {"chat": ("abcde" * 9, "deabc" * 9), "code": ("xyz" * 9,)}[
            body["sampling_params"]["custom_params"]["slo_class"]
        ]
        assert any(whole.startswith(text) for whole in endless)


def test_an_open_loop_keeps_the_load_up_behind_what_is_measured(server: Fake) -> None:
    loaded = drive(Client(server.url), workload(None), Run(requests=10, warmup_requests=2))
    assert sum(r.measured for r in loaded.requests) == 8
    assert loaded.opened_s < loaded.closed_s <= loaded.wall_s
    sent = [r.sent_s for r in loaded.requests]
    assert sent == sorted(sent)


def test_an_open_loop_says_how_late_it_sends(server: Fake) -> None:
    """Each prompt takes longer to make than the next request is away, so that lateness adds up."""
    slow_s, requests = 0.03, 10

    def slowly(spec: PromptSpec) -> list[int]:
        time.sleep(slow_s)
        return [1] * spec.tokens

    loaded = drive(Client(server.url), workload(None), Run(requests=requests, warmup_requests=0, drain=True), 0, slowly)
    arrivals_s = next(workload(None).chunks(0, requests))["arrival_s"]
    assert arrivals_s[-1] < 0.5 * slow_s * requests
    # All prompts but the last were made before the last request was sent.
    assert slow_s * (requests - 1) - arrivals_s[-1] <= loaded.late_s
    assert loaded.late_s <= max(np.array([request.sent_s for request in loaded.requests]) - arrivals_s)


def test_failures_are_counted_and_not_sent_again(server: Fake) -> None:
    server.stream = lambda body: [1] * (2 if len(body["input_ids"]) == 5 else 6)
    loaded = drive(Client(server.url), workload(), Run(requests=30, warmup_requests=0, drain=True))
    short = [r for r in loaded.requests if r.prompt_tokens == 5]
    assert short and loaded.failed == short and all("aborted: out of memory" in r.error for r in short)
    assert len(server.asked) == 30
    found = result(loaded)
    assert found.aborted == len(short) and found.unfinished == 0 and found.requests == 30


def request(number: int, sent_s: float, times: list[float], tokens: list[int], slo_class: int = 0) -> SentRequest:
    total = sum(tokens)
    return SentRequest(
        number, slo_class, True, 10, total, sent_s, times[-1], np.array(times), np.array(tokens), 2, (0, 1, 1), "", True
    )


def test_figures_by_hand() -> None:
    """One good request, one with a late first token and one with slow tokens."""
    requests = (
        request(0, 0.0, [0.2, 0.3, 0.5], [1, 2, 3]),
        request(1, 0.0, [0.8, 0.9], [1, 3], 1),
        request(2, 1.0, [1.1, 1.7], [1, 5]),
    )
    found = result(Loaded(workload().classes, requests, 3, (2, 1), 0.0, 2.0, 2.0, 0.1, 0.0, {}))
    assert found.throughput_tok_s == pytest.approx((6 + 4 + 6) / 2)
    assert found.ttft.mean_s == pytest.approx((0.2 + 0.8 + 0.1) / 3) and found.ttft.p50_s == pytest.approx(0.2)
    assert found.tpot.mean_s == pytest.approx((0.3 / 5 + 0.1 / 3 + 0.6 / 5) / 3)
    # Gaps shared by the tokens that come together: 2 of 50 ms, 3 of 200/3, 3 of 100/3, 5 of 120.
    assert found.itl.p50_s == pytest.approx(float(np.median([0.05] * 2 + [0.2 / 3] * 3 + [0.1 / 3] * 3 + [0.12] * 5)))
    assert [c.good for c in found.classes] == [1, 0] and found.goodput_per_s == pytest.approx(0.5)
    assert found.accepted_length == pytest.approx((5 + 3 + 5) / 6) and found.verify_length == pytest.approx(1.5)


def test_only_the_window_counts_for_throughput() -> None:
    requests = (request(0, 0.0, [0.5, 1.5], [1, 3]), request(1, 1.0, [1.6, 2.5], [2, 2]))
    found = result(Loaded(workload().classes, requests, 3, (2, 0), 1.0, 2.0, 3.0, 0.1, 0.0, {}))
    assert found.throughput_tok_s == pytest.approx((3 + 2) / 1.0)


def test_files_hold_what_plain_calibration_needs(server: Fake, tmp_path: Path) -> None:
    loaded = drive(Client(server.url), workload(), Run(requests=9, warmup_requests=0, drain=True))
    request_rows.write(tmp_path / "a.parquet", loaded)
    kept = request_rows.read(tmp_path / "a.parquet")
    assert kept.clients == workload().clients and not kept.speculative
    for one, other in zip(kept.requests, loaded.requests, strict=True):
        assert (one.id, one.output_tokens, one.rounds, one.verify_lengths) == (
            other.id, other.output_tokens, other.rounds, other.verify_lengths
        )  # fmt: skip
        assert one.chunk_s.tolist() == other.chunk_s.tolist()
    (row,) = plain.read([tmp_path / "a.parquet"]).to_dict("records")
    gaps = np.concatenate([np.diff(r.chunk_s) for r in loaded.requests])
    assert row["requests"] == 3 and row["step_s"] == pytest.approx(float(np.median(gaps)))
    server.info["speculative_algorithm"] = "DSPARK"
    request_rows.write(tmp_path / "b.parquet", loaded._replace(server=server.info))
    with pytest.raises(InputError, match="the server speculated"):
        plain.read([tmp_path / "b.parquet"])


def scenario(tmp_path: Path) -> Path:
    base: dict[str, Any] = {
        "name": "mine",
        "model": "m",
        "hardware": "h",
        "memory": {"kv_tokens": 10000, "kv_tokens_without_draft": 10000},
        "cost": {
            "kind": "curve",
            "curve": {
                "captured": {"tokens": [1], "seconds": [0.01]},
                "draft": {"requests": [1], "seconds": [0.001]},
            },
        },
        "workload": {"arrivals": {"kind": "closed", "clients": 2}, "classes": CLASSES},
    }
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(base))
    return path


def test_command_prints_the_simulators_figures(server: Fake, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"slo_class": c, "text": f"text of {c}"}) + "\n" for c in ("chat", "code")))
    words = ["load", scenario(tmp_path), "--url", server.url, "--requests", 12, "--prompts", prompts]
    ran = dspark(*words, "--out", tmp_path / "requests.parquet", "--json").json()
    simulated = dspark("simulate", scenario(tmp_path), "--requests", 12, "--json").json()
    assert ran["result"].keys() == simulated["result"].keys()
    assert ran["failed"] == 0 and ran["result"]["requests"] == 12
    assert (tmp_path / "requests.parquet").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "line 1: 'not json' is not"),
        ('{"slo_class": "chat", "text": ""}', "slo_class and text must be texts"),
        ('{"slo_class": "chat", "text": "only one class"}', "has no text of class 'code'"),
    ],
)
def test_bad_prompts_are_refused(server: Fake, tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n")
    ran = dspark("load", scenario(tmp_path), "--url", server.url, "--prompts", path)
    assert ran.code == 2 and said in ran.err and ran.err.count("\n") == 1 and not server.asked


def test_a_server_that_fails_every_request_is_an_error(server: Fake, tmp_path: Path) -> None:
    server.stream = lambda body: [1]
    ran = dspark("load", scenario(tmp_path), "--url", server.url, "--requests", 4)
    assert ran.code == 2 and "every request failed" in ran.err
