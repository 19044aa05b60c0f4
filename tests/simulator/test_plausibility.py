"""Values that are valid and cannot be meant: each is warned of, and a neighbouring value is not."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from dspark_simulator.plausibility import Warned, warnings
from dspark_simulator.scenario import PACKAGED, load, names, parse
from sglang_dspark.shapes.known import known

OPEN = {"kind": "poisson", "rate_per_s": 2.0}
CLASS = "workload.classes.0"


@cache
def packaged(name: str) -> Any:
    content = yaml.safe_load((PACKAGED / f"{name}.yaml").read_text())
    return content | {"workload": content["workload"] | {"arrivals": OPEN}, "loads": [1.0]}


def checked(name: str, changes: dict[str, Any]) -> list[Warned]:
    content = copy.deepcopy(packaged(name))
    for path, value in changes.items():
        part: Any = content
        *parents, last = path.split(".")
        for key in parents:
            part = part[int(key)] if isinstance(part, list) else part.setdefault(key, {})
        part[int(last) if isinstance(part, list) else last] = value
    return warnings(parse(yaml.safe_dump(content), "mine.yaml", Path()))


@pytest.mark.parametrize("name", names())
def test_no_packaged_scenario_is_warned_of(name: str) -> None:
    assert warnings(load(name)) == []
    assert checked(name, {}) == []


B300, H200, MI350X = "b300-v4flash", "h200-qwen3-8b", "mi350x-v4flash"
SLO = f"{CLASS}.slo"


@pytest.mark.parametrize(
    ("name", "changes", "neighbour", "field", "said"),
    [
        (MI350X, {"gpus": 2, "hardware": "here"}, {"hardware": "here"}, "gpus", "on 4 GPUs (cost.tp)"),
        (B300, {"hardware": "8xB300"}, {"hardware": "4 x b300"}, "hardware", "names 8 GPUs, and gpus is 4"),
        (H200, {"hardware": "H100"}, {"hardware": "Hopper"}, "hardware", "of H200 (cost.gpu)"),
        (H200, {"model": "Qwen/Qwen3-14B"}, {"model": "mine"}, "cost.model", "Qwen/Qwen3-14B has 14.8 B"),
        # 141 GB hold 16.4 GB of weights and about 845 thousand tokens of 147,456 bytes.
        (H200, {"memory.kv_tokens_without_draft": 860_000}, {"memory.kv_tokens_without_draft": 830_000},
         "memory.kv_tokens_without_draft", "takes 127 GB"),
        (H200, {"memory.kv_tokens": 300_000}, {"memory.kv_tokens": 302_000}, "memory.kv_tokens", "about 602555 tokens"),
        (H200, {"memory.kv_tokens": 701_521}, {"memory.kv_tokens": 701_520}, "memory.kv_tokens", "exchange them"),
        (B300, {"memory.kv_tokens": 2 * 10**9, "memory.kv_tokens_without_draft": 2 * 10**9, "model": "mine"},
         {"memory.kv_tokens": 10**9, "memory.kv_tokens_without_draft": 10**9, "model": "mine"},
         "memory.kv_tokens", "tokens, not bytes"),
        (B300, {"gpus": 1, "hardware": "L40S"}, {"gpus": 4, "hardware": "L40S"}, "gpus", "do not fit into 1 L40S"),
        (B300, {"memory.costs": {"token_bytes": 3.85}}, {"memory.costs": {"token_bytes": 3850}},
         "memory.costs.token_bytes", "give bytes"),
        (B300, {f"{SLO}.tpot_s": 20}, {f"{SLO}.tpot_s": 0.3}, f"{SLO}.tpot_s", "seconds, not milliseconds"),
        (B300, {f"{SLO}.ttft_s": 1000}, {f"{SLO}.ttft_s": 50}, f"{SLO}.ttft_s", "seconds, not milliseconds"),
        # A block of 5 and its anchor take 5.4 ms of verifying and 1.2 ms of drafting at least.
        (B300, {f"{SLO}.tpot_s": 0.001}, {f"{SLO}.tpot_s": 0.0015}, f"{SLO}.tpot_s", "no request can meet it"),
        (B300, {f"{SLO}.ttft_s": 0.005}, {f"{SLO}.ttft_s": 0.05}, f"{SLO}.ttft_s", "half of the requests"),
        (B300, {"memory.kv_tokens": 5000, "memory.kv_tokens_without_draft": 5000, "model": "mine"},
         {"memory.kv_tokens": 9000, "memory.kv_tokens_without_draft": 9000, "model": "mine"},
         f"{CLASS}.prompt", "exceed the KV pool of 5000"),
        (B300, {f"{CLASS}.max_new_tokens": 256}, {f"{CLASS}.max_new_tokens": 999}, f"{CLASS}.max_new_tokens", "cuts"),
        (B300, {f"{CLASS}.prompt.mean": 9000}, {f"{CLASS}.prompt.mean": 8000}, f"{CLASS}.prompt.mean", "widen"),
        (B300, {f"{CLASS}.prompt.sigma": 4}, {f"{CLASS}.prompt.sigma": 2}, f"{CLASS}.prompt.sigma", "of the logarithm"),
        (B300, {f"{CLASS}.prefixes": 8}, {f"{CLASS}.prefixes": 8, f"{CLASS}.cached_prefix": 0.5},
         f"{CLASS}.prefixes", "cached_prefix is 0"),
        (B300, {f"{CLASS}.share": 0.02}, {f"{CLASS}.share": 1}, f"{CLASS}.share", "give all in one unit"),
        (B300, {"cost.overhead_s": 0.35}, {"cost.overhead_s": 0.05}, "cost.overhead_s", "seconds, not milliseconds"),
        (B300, {"live.overhead_s": [0, 0.5]}, {"live.overhead_s": [0, 0.05]}, "live.overhead_s", "seconds, not millis"),
        (B300, {"live.slope": [95, 105]}, {"live.slope": [0.5, 5]}, "live.slope", "not percent"),
        (B300, {"drafter_quality": -10}, {"drafter_quality": -1}, "drafter_quality", "logits, not percent"),
        (B300, {"workload.arrivals.rate_per_s": 1200}, {"workload.arrivals.rate_per_s": 40},
         "workload.arrivals", "not per minute"),
        (B300, {"loads": [1, 600]}, {"loads": [1, 20]}, "loads", "factors on the rate of 2 requests/s"),
        (B300, {"run.max_s": 400}, {"run.max_s": 600}, "run.max_s", "1000 requests take 500 s"),
        (B300, {"run.warmup_requests": 501}, {"run.warmup_requests": 500}, "run.warmup_requests", "only 499 requests"),
        (B300, {"workload.arrivals": {"kind": "closed", "clients": 2}, "replicas": 4},
         {"workload.arrivals": {"kind": "closed", "clients": 4}, "replicas": 4},
         "workload.arrivals.clients", "never all busy"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant(
    name: str, changes: dict[str, Any], neighbour: dict[str, Any], field: str, said: str
) -> None:
    assert [one for one in checked(name, neighbour) if one.field == field] == []
    (warned,) = [one for one in checked(name, changes) if one.field == field]
    assert said in warned.message
    assert "\n" not in str(warned)


def test_requests_beyond_the_context_of_the_model() -> None:
    shapes = known("Qwen3-8B")
    assert shapes is not None

    def of(context_length: int) -> list[Warned]:
        model = shapes.model.model_dump(mode="json") | {"context_length": context_length}
        return [one for one in checked(H200, {"cost.model": model}) if one.field == f"{CLASS}.prompt"]

    # Prompts and outputs of the chat class end at 8,192 and 2,048 tokens.
    assert of(10_240) == []
    assert "exceed the model's context of 2048 tokens" in of(2048)[0].message


def test_measured_steps_in_milliseconds() -> None:
    def curve(unit: float) -> dict[str, Any]:
        captured = {"tokens": [1, 64], "seconds": [5 * unit, 10 * unit]}
        return {"kind": "curve", "curve": {"captured": captured, "draft": {"requests": [1], "seconds": [unit]}}}

    assert not [one for one in checked(B300, {"cost": curve(0.001)}) if one.field == "cost"]
    assert [one.field for one in checked(B300, {"cost": curve(1.0)}) if one.field == "cost"] == ["cost"]
