"""The packaged scenarios against the published runs that they describe."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from dspark_simulator.acceptance_model import packaged
from dspark_simulator.costs.numeric import prefill_s
from dspark_simulator.costs.roofline import RooflineCost
from dspark_simulator.scenario import Run, Scenario, load
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import Workload
from sglang_dspark.shapes.known import known
from tests.published_data import published

# As the published runs were made, as far as that is said: 512 tokens out, prompts of about 200.
PROMPT = {"kind": "lognormal", "mean": 200, "sigma": 1.0, "max": 4096}
CLASS = {"prompt": PROMPT, "output": {"kind": "fixed", "tokens": 512}, "slo": {"ttft_s": 1.0, "tpot_s": 1.0}}


def plain_rows(model: str, hardware: str) -> list[tuple[int, float, float | None]]:
    """Clients, throughput and median TPOT of the runs without speculation."""
    with published("serving.csv").open() as source:
        return [
            (
                int(line["concurrency"]),
                float(line["throughput_tok_s"]),
                float(line["median_tpot_ms"]) / 1000 if line["median_tpot_ms"] else None,
            )
            for line in csv.DictReader(source)
            if line["arm"] == "nospec" and line["hardware"] == hardware and model in line["model"]
        ]


def benchmark(scenario: Scenario, server: Server, clients: int) -> Any:
    """A published run on the scenario's step times and drafter."""
    classes = [{"name": klass.name, "domain": klass.domain, **CLASS} for klass in scenario.workload.classes]
    run = scenario.model_copy(
        update={
            "server": server,
            "workload": Workload.model_validate(
                {"arrivals": {"kind": "closed", "clients": clients}, "classes": classes}
            ),
            "run": Run(requests=min(880, max(12 * clients, 48)), warmup_requests=0, drain=True),
        }
    )
    return simulate(run, Arm("published", server, stock=True))


def vllm(**flags: Any) -> Server:
    return Server(engine="vllm", gamma=5, max_running_requests=256, capture_tokens=1024, **flags)


def test_b300s_step_times_are_the_published_ones_at_every_load() -> None:
    scenario = load("b300-v4flash")
    for clients, _, tpot_s in plain_rows("V4-Flash", "B300"):
        result = benchmark(scenario, vllm(speculative=False), clients)
        assert result.tpot.p50_s == pytest.approx(tpot_s, rel=0.05), clients


def test_b300s_speculation_pays_as_much_as_published_for_one_client() -> None:
    """386 tokens a second with a fixed block, 168 without speculation (2.3 times; it was 3.4)."""
    scenario = load("b300-v4flash")
    plain, fixed = (benchmark(scenario, vllm(speculative=on), 1) for on in (False, True))
    assert fixed.throughput_tok_s / plain.throughput_tok_s == pytest.approx(386 / 168, rel=0.15)


def test_mi350xs_throughput_is_the_published_one() -> None:
    scenario = load("mi350x-v4flash")
    for clients, throughput_tok_s, _ in plain_rows("V4-Flash", "MI350X"):
        result = benchmark(scenario, vllm(speculative=False), clients)
        assert result.throughput_tok_s == pytest.approx(throughput_tok_s, rel=0.2), clients


def test_h200s_verify_all_throughput_is_the_published_one() -> None:
    """sgl-project/sglang#35413; its prompts and lengths are not published."""
    scenario = load("h200-qwen3-8b")
    for clients, throughput_tok_s, accepted in ((48, 7476, 3.76), (64, 8511, 3.78)):
        server = scenario.server.model_copy(update={"max_running_requests": clients, "gamma": 7})
        result = benchmark(scenario, server, clients)
        assert result.throughput_tok_s == pytest.approx(throughput_tok_s, rel=0.15), clients
        assert result.accepted_length == pytest.approx(accepted, rel=0.08)


@pytest.mark.parametrize(("clients", "throughput_tok_s"), [(1, 222), (4, 566), (8, 734), (16, 1013)])
def test_a_small_mixture_of_experts_on_two_h100(clients: int, throughput_tok_s: float) -> None:
    """Qwen3-30B-A3B in bf16 without speculation, published by its users; it was predicted at 56 to 76 %."""
    qwen = known("Qwen3-30B-A3B")
    assert qwen is not None
    cost = RooflineCost(kind="roofline", gpu="H100", tp=2, model=qwen.model)
    scenario = load("h200-qwen3-8b").model_copy(update={"cost": cost})
    result = benchmark(scenario, vllm(speculative=False), clients)
    assert result.throughput_tok_s == pytest.approx(throughput_tok_s, rel=0.25)


def test_a_drafter_that_was_evaluated_is_taken_as_it_is(tmp_path: Path) -> None:
    """A new acceptance model resets the scenario's drafter quality."""
    path = tmp_path / "acceptance.yaml"
    path.write_text(yaml.safe_dump(packaged().model_dump(mode="json")))
    scenario = load("b300-v4flash")
    assert scenario.drafter() == packaged().shifted(scenario.drafter_quality) != packaged()
    assert scenario.with_acceptance(path).drafter() == packaged()


def test_loads_past_the_measured_curve_are_said_to_be_extrapolated() -> None:
    """The curve ends at 1,024 tokens; SGLang captures every batch up to 512."""
    scenario = load("b300-v4flash")
    roomy = scenario.server.model_copy(update={"max_running_requests": 512})
    assert scenario.at_load(128).extrapolated(roomy) == ""
    told = scenario.at_load(256).extrapolated(roomy)
    assert told == "extrapolated: steps were measured up to 1,024 tokens, and here have up to 1,536"
    assert scenario.at_load(256).extrapolated(roomy.model_copy(update={"speculative": False})) == ""
    assert scenario.at_load(256).extrapolated(roomy.model_copy(update={"capture_requests": 64})) == ""
    assert load("h200-qwen3-8b").at_load(256).extrapolated(roomy) == "", "a roofline has no end"


def test_prefill_is_captured_as_sglang_captures_it() -> None:
    """Bound by kernels on CUDA, up to 8,192 tokens with latent attention; bound by launches on ROCm (eager)."""
    qwen, deepseek = known("Qwen3-8B"), known("DeepSeek-V4-Flash")
    assert qwen is not None and deepseek is not None
    launch_s = 0.5

    def prompt_s(gpu: str, model: Any, tokens: int) -> float:
        cost = RooflineCost(kind="roofline", gpu=gpu, tp=8, model=model, eager_layer_s=launch_s / model.layers)
        return prefill_s(cost.tabulate(), tokens, 0.0)

    assert prompt_s("H200", qwen.model, 100) < 0.01 and prompt_s("H200", qwen.model, 16384) < launch_s
    assert prompt_s("B300", deepseek.model, 8192) < launch_s <= prompt_s("B300", deepseek.model, 8193)
    assert prompt_s("MI350X", deepseek.model, 100) == pytest.approx(launch_s)
