"""Scenario of a published row: its server, the traffic of its benchmark, and its step times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from dspark_simulator.acceptance_model import AcceptanceModel, packaged
from dspark_simulator.deployment import Memory, Truth
from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import RequestClass, Workload
from dspark_tuning.measuring.validate.lookup import block
from dspark_tuning.measuring.validate.published_rows import PublishedRow
from dspark_tuning.measuring.validate.steps import Filled, Measured, steps_of
from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.policy import Argmax, Engine, NoDraft, compile_rule
from sglang_dspark.policy.belief import MAX_REQUESTS

# SPEED-Bench's qualitative split has 880 prompts, and the runs on B300 sent each once. With few clients fewer are
# simulated: enough for the accepted length, or, without speculation, to fill and drain the server a dozen times.
REQUESTS = 880
LEAST_REQUESTS = 240
ROUNDS = 30
PLAIN_ROUNDS = 12
OUTPUT_TOKENS = 512
MAX_BATCHED_TOKENS = 16384
LONGEST_PROMPT = 4096
# Tokens of the question of a decoding benchmark, after its stated context.
QUESTION_TOKENS = 32
# Steady part of a decoding sweep in requests per client, after one that fills the server.
SWEEP_ROUNDS = 3
# The KV pool is never published, and no run reports that it was full.
KV_TOKENS = 100_000_000
# Not published: no row is scored by a service level.
SLO = {"ttft_s": 1.0, "tpot_s": 1.0}


class Prediction(NamedTuple):
    """Simulated figures of a row.

    Attributes:
        step_s: Time of a step that decodes all clients, with the shares of prefill and draining.
    """

    throughput_tok_s: float
    tpot_s: float
    accepted_length: float
    verify_length: float
    step_s: float


class _Setup(NamedTuple):
    scenario: Scenario
    arm: Arm
    truth: Truth


def check(row: PublishedRow, measured: Measured) -> None:
    """Check that :func:`predict` can simulate a row.

    Raises:
        InputError: Unknown step times, an unknown block size, or flags that the simulator does not support.
    """
    steps = steps_of(measured)
    steps.check(row)
    filled = fill(row, row.concurrency, steps.possible_tp(row)[0])
    try:
        _, arm, _ = _setup(row, filled, steps.space(row, ()).values(), measured)
        compile_rule(arm.policy or NoDraft(), Engine(filled.gamma, arm.server.tiers(), row.concurrency, arm.belief))
    except ValidationError as error:
        raise from_validation(error, row.where) from error
    except InputError as error:
        raise InputError(f"{row.where}: {error}") from error


def fill(row: PublishedRow, most_clients: int, tp: int) -> Filled:
    """Fill the blank fields of a row.

    Args:
        most_clients: Largest concurrency of the deployment, which determines the captured tokens.
        tp: Tensor parallelism if the row does not state it.

    Raises:
        InputError: The row drafts with an unknown block size.
    """
    usual = block(row)
    # Without speculation the block size has no effect.
    gamma = row.gamma if row.arm != "nospec" else usual
    blank = {
        "gamma": (gamma, usual),
        "tp": (row.tp, tp),
        "capture_tokens": (row.capture_tokens, most_clients * ((gamma or usual) + 1)),
        "output_tokens": (row.output_tokens, OUTPUT_TOKENS),
    }
    fields = {name: usual if given is None else given for name, (given, usual) in blank.items()}
    assumed = tuple(f"{name} {fields[name]}" for name, (given, _) in blank.items() if given is None)
    return Filled(**fields, assumed=assumed)


def predict(row: PublishedRow, filled: Filled, values: Mapping[str, float], measured: Measured) -> Prediction:
    """Simulate the run of a row.

    Args:
        values: Values of the quantities of ``parameters`` by name.
        measured: Measured steps of the deployment; None uses the roofline of its model.
    """
    scenario, arm, truth = _setup(row, filled, values, measured)
    result = simulate(scenario, arm, truth=truth)
    return Prediction(
        result.throughput_tok_s,
        result.tpot.mean_s if row.tpot_is_mean else result.tpot.p50_s,
        result.accepted_length,
        result.verify_length,
        row.concurrency * result.accepted_length / result.throughput_tok_s,
    )


def _setup(row: PublishedRow, filled: Filled, values: Mapping[str, float], measured: Measured) -> _Setup:
    steps = steps_of(measured)
    scheduled = row.arm == "adaptive"
    server = _server(row, filled)
    scenario = Scenario(
        name=row.label,
        model=row.model,
        hardware=row.hardware,
        memory=Memory(kv_tokens=KV_TOKENS, kv_tokens_without_draft=KV_TOKENS),
        server=server,
        cost=steps.live(row, filled, values),
        acceptance=_drafter(row, values["quality"]),
        workload=_workload(row, filled, values),
        run=_run(row),
    )
    belief = steps.belief(row, filled, values) if scheduled else None
    arm = Arm(row.label, server, Argmax() if scheduled else None, belief, stock=row.engine == "sglang")
    slope = values.get("ragged_slope", 1.0) if scheduled else 1.0
    return _Setup(scenario, arm, Truth(slope=slope))


def _run(row: PublishedRow) -> Run:
    if row.context_tokens is None:
        return Run(requests=_requests(row), warmup_requests=0, drain=True)
    measured = max(LEAST_REQUESTS, SWEEP_ROUNDS * row.concurrency)
    return Run(requests=row.concurrency + measured, warmup_requests=row.concurrency)


def _requests(row: PublishedRow) -> int:
    if row.arm == "nospec":
        return min(REQUESTS, PLAIN_ROUNDS * row.concurrency)
    return min(REQUESTS, max(LEAST_REQUESTS, ROUNDS * row.concurrency))


def _server(row: PublishedRow, filled: Filled) -> Server:
    limits: dict[str, Any] = {"capture_tokens": filled.capture_tokens}
    if row.engine == "sglang":
        # SGLang captures batches; their tokens follow from gamma.
        limits = {"capture_requests": min(max(filled.capture_tokens // (filled.gamma + 1), 1), MAX_REQUESTS)}
        if row.context_tokens is None:
            limits["prefill_decode_interval"] = row.prefill_decode_interval or 0
        else:
            # A decoding sweep times one wave of requests, in which no prompt waits for a free slot.
            limits["min_free_slots_delay"] = 1
    return Server(
        engine=row.engine,
        speculative=row.arm != "nospec",
        gamma=filled.gamma,
        verify_mode="compact" if row.arm == "adaptive" else "static",
        max_running_requests=row.max_running_requests or row.concurrency,
        max_prefill_tokens=MAX_BATCHED_TOKENS,
        confidence_lag_steps=1 if row.engine == "vllm" else 2,
        **limits,
    )


def _workload(row: PublishedRow, filled: Filled, values: Mapping[str, float]) -> Workload:
    if row.context_tokens is not None:
        prompt: dict[str, Any] = {"kind": "fixed", "tokens": row.context_tokens + QUESTION_TOKENS}
    else:
        mean, sigma = values["prompt_tokens"], values["prompt_sigma"]
        prompt = {"kind": "lognormal", "mean": mean, "sigma": sigma, "max": LONGEST_PROMPT}
    output = {"kind": "fixed", "tokens": filled.output_tokens}
    # Benchmarks of speculation mix kinds of text; every data set of the paper has an equal share.
    classes = [
        RequestClass.model_validate({"name": name, "domain": name, "prompt": prompt, "output": output, "slo": SLO})
        for name in packaged().domains
    ]
    return Workload.model_validate({"arrivals": {"kind": "closed", "clients": row.concurrency}, "classes": classes})


def _drafter(row: PublishedRow, quality: float) -> AcceptanceModel:
    """The packaged drafter, shifted by ``quality`` logits; without temperatures for SGLang, as by its default."""
    model = packaged().shifted(quality)
    return model if row.engine == "vllm" else model.with_temperatures([1.0] * model.gamma)
