"""A published row as a scenario: its server, its benchmark's traffic, and step times from a curve or a roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dspark_simulator.acceptance import AcceptanceModel, packaged
from dspark_simulator.costs import sps_additive
from dspark_simulator.costs.base import Experts as LiveExperts
from dspark_simulator.costs.curve import CurveCost, Measurements
from dspark_simulator.costs.roofline import RooflineCost
from dspark_simulator.costs.shape import Experts
from dspark_simulator.deployment import Memory, Truth
from dspark_simulator.hardware import GPUS, Gpu
from dspark_simulator.models import Known, known, names
from dspark_simulator.scenario import Run, Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm, simulate
from dspark_simulator.workloads import RequestClass, Workload
from dspark_tuning.validate.parameters import ROOFLINE
from dspark_tuning.validate.rows import Row
from sglang_dspark.errors import InputError
from sglang_dspark.policy import Argmax
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS

# SPEED-Bench's qualitative split has 880 prompts, and the runs on B300 sent each once. Of few clients fewer are
# simulated: as many as tell their accepted length, or, without speculation, fill and drain the server a dozen times.
REQUESTS = 880
LEAST_REQUESTS = 240
ROUNDS = 30
PLAIN_ROUNDS = 12
OUTPUT_TOKENS = 512
PROFILED_CONTEXT = 8192
MAX_BATCHED_TOKENS = 16384
MEMORY_FRACTION = 0.85
LONGEST_PROMPT = 4096
# Nobody publishes the pool, and no run here is said to have filled it.
KV_TOKENS = 100_000_000
# Published by nobody: no row is scored by a service level.
SLO = {"ttft_s": 1.0, "tpot_s": 1.0}


class Filled(NamedTuple):
    """A row's blank fields, filled.

    Attributes:
        assumed: What was filled in, for the report.
    """

    gamma: int
    tp: int
    capture_tokens: int
    output_tokens: int
    assumed: tuple[str, ...]


class Prediction(NamedTuple):
    """What the simulator says of a row."""

    throughput_tok_s: float
    tpot_s: float
    accepted_length: float
    verify_length: float


def shapes(row: Row) -> Known:
    """The shapes of the row's model.

    Raises:
        InputError: It is not known, the row's GPU is not or does not multiply in its format, or the row's gamma is more
            than the acceptance model describes.
    """
    found = known(row.model)
    if found is None:
        raise InputError(f"{row.where}: model: {row.model!r} is not known; known are {', '.join(names())}")
    for wanted in (found.model.format, found.model.routed_format()):
        if wanted not in gpu(row).flops_per_s:
            able = ", ".join(name for name, other in GPUS.items() if wanted in other.flops_per_s)
            raise InputError(
                f"{row.where}: hardware: {row.hardware!r} has no {wanted}, which {row.model} is in; give one of {able}"
            )
    # Published servers draft more than the block of the checkpoint.
    most = packaged().gamma
    if row.gamma is not None and row.gamma > most:
        raise InputError(
            f"{row.where}: gamma: {row.gamma} is beyond what the acceptance model describes; give at most {most}"
        )
    return found


def gpu(row: Row) -> Gpu:
    """The row's GPU.

    Raises:
        InputError: It is not known.
    """
    for name, found in GPUS.items():
        if name == row.hardware:
            return found
    raise InputError(f"{row.where}: hardware: {row.hardware!r} is not known; known are {', '.join(GPUS)}")


def fill(row: Row, most_clients: int, tp: int) -> Filled:
    """Fills what a row leaves blank.

    Args:
        most_clients: Of all rows of the deployment: an operator captures what its batches need.
        tp: Where the row does not say.
    """
    block = shapes(row).draft.block
    # Without speculation the block is loaded by nobody, and any will do.
    gamma = row.gamma if row.arm != "nospec" else block
    blank = {
        "gamma": (gamma, block),
        "tp": (row.tp, tp),
        "capture_tokens": (row.capture_tokens, most_clients * ((gamma or block) + 1)),
        "output_tokens": (row.output_tokens, OUTPUT_TOKENS),
    }
    fields = {name: usual if given is None else given for name, (given, usual) in blank.items()}
    assumed = tuple(f"{name} {fields[name]}" for name, (given, _) in blank.items() if given is None)
    return Filled(**fields, assumed=assumed)


def possible_tp(row: Row) -> list[int]:
    """The numbers of GPUs that a row may be of, fewest first: its own, or the powers of two that hold its weights."""
    if row.tp is not None:
        return [row.tp]
    weights, memory = shapes(row).model.weight_bytes(), gpu(row).memory_bytes
    return [tp for tp in (1, 2, 4, 8) if weights < MEMORY_FRACTION * tp * memory] or [8]


def predict(row: Row, filled: Filled, values: Mapping[str, float], curve: Measurements | None) -> Prediction:
    """Simulates the run of a row.

    Args:
        values: By name of a quantity of ``parameters``.
        curve: The deployment's measured steps; None takes the roofline of its model.
    """
    scheduled = row.arm == "adaptive"
    cost = _cost(row, filled, values, curve)
    belief = None
    if scheduled:
        profiled = _profiled(row, filled, values, curve).tabulate(filled.gamma)
        captured = filled.capture_tokens if row.engine == "vllm" else MAX_TOKENS
        belief = sps_additive(profiled, MAX_REQUESTS, MAX_TOKENS, captured)
    server = _server(row, filled)
    scenario = Scenario(
        name=row.label,
        model=row.model,
        hardware=row.hardware,
        memory=Memory(kv_tokens=KV_TOKENS, kv_tokens_without_draft=KV_TOKENS),
        server=server,
        cost=cost,
        acceptance=_drafter(values["quality"]),
        workload=_workload(row, filled, values),
        run=Run(requests=_requests(row), warmup_requests=0, drain=True),
    )
    arm = Arm(row.label, server, Argmax() if scheduled else None, belief, stock=row.engine == "sglang")
    slower = values.get("ragged_slope", 1.0) if scheduled else 1.0
    result = simulate(scenario, arm, truth=Truth(slope=slower))
    return Prediction(result.throughput_tok_s, result.tpot.p50_s, result.accepted_length, result.verify_length)


def _requests(row: Row) -> int:
    if row.arm == "nospec":
        return min(REQUESTS, PLAIN_ROUNDS * row.concurrency)
    return min(REQUESTS, max(LEAST_REQUESTS, ROUNDS * row.concurrency))


def _server(row: Row, filled: Filled) -> Server:
    limits: dict[str, Any] = {"capture_tokens": filled.capture_tokens}
    if row.engine == "sglang":
        # SGLang captures batches; their tokens follow from gamma.
        limits = {"capture_requests": min(max(filled.capture_tokens // (filled.gamma + 1), 1), MAX_REQUESTS)}
    return Server(
        engine=row.engine,
        speculative=row.arm != "nospec",
        gamma=filled.gamma,
        verify_mode="compact" if row.arm == "adaptive" else "static",
        max_running_requests=row.concurrency,
        max_prefill_tokens=MAX_BATCHED_TOKENS,
        confidence_lag_steps=1 if row.engine == "vllm" else 2,
        **limits,
    )


def _workload(row: Row, filled: Filled, values: Mapping[str, float]) -> Workload:
    prompt = {
        "kind": "lognormal",
        "mean": values["prompt_tokens"],
        "sigma": values["prompt_sigma"],
        "max": LONGEST_PROMPT,
    }
    output = {"kind": "fixed", "tokens": filled.output_tokens}
    # Benchmarks of speculation mix kinds of text; every data set of the paper has an equal part.
    classes = [
        RequestClass.model_validate({"name": name, "domain": name, "prompt": prompt, "output": output, "slo": SLO})
        for name in packaged().domains
    ]
    return Workload.model_validate({"arrivals": {"kind": "closed", "clients": row.concurrency}, "classes": classes})


def _drafter(quality: float) -> AcceptanceModel:
    """The packaged drafter, every domain better by ``quality`` logits."""
    model = packaged()
    domains = {name: d.model_copy(update={"mean": d.mean + quality}) for name, d in model.domains.items()}
    return model.model_copy(update={"domains": domains})


def _cost(
    row: Row, filled: Filled, values: Mapping[str, float], curve: Measurements | None
) -> CurveCost | RooflineCost:
    """Live steps."""
    host = {name: values[name] for name in ("overhead_s", "request_s")}
    host["draft_novelty"] = values.get("draft_novelty", 1.0)
    profiled = _profiled(row, filled, values, curve)
    if isinstance(profiled, RooflineCost):
        return profiled.model_copy(update=host)
    live: dict[str, Any] = host
    if "experts_s" in values:
        feed_forward = shapes(row).model.feed_forward
        live["experts"] = LiveExperts(seconds=values["experts_s"], share=feed_forward.active_share())
    return profiled.model_copy(update=live)


def _profiled(
    row: Row, filled: Filled, values: Mapping[str, float], curve: Measurements | None
) -> CurveCost | RooflineCost:
    """Steps as a profiler sees them: kernels alone."""
    found = shapes(row)
    scale = values.get("scale", 1.0)
    # Beside a measured curve the roofline gives the small parts only, at what is believed of it.
    wanted = {name: values.get(name, believed.centre) for name, believed in ROOFLINE.items()}
    roofline = RooflineCost.model_validate(
        {
            "kind": "roofline",
            "gpu": row.hardware,
            "tp": filled.tp,
            "model": found.model,
            "draft": found.draft,
            "layer_s": wanted["layer_s"] * scale,
            "eager_layer_s": wanted["eager_layer_s"] * scale,
            "bandwidth_efficiency": min(wanted["bandwidth_efficiency"] / scale, 1.0),
            "flops_efficiency": min(wanted["flops_efficiency"] / scale, 1.0),
            "overhead_s": 0.0,
        }
    )
    if curve is None:
        return roofline
    # What a profile of decode steps leaves out comes from the shape.
    parts = roofline.tabulate()[0]
    return CurveCost(
        kind="curve",
        curve=curve,
        profiled_context=PROFILED_CONTEXT,
        context_s_per_token=float(parts["context_s_per_token"]),
        prefill_context_s=float(parts["prefill_context_s"]),
        inject_s_per_token=float(parts["inject_s_per_token"]),
    )


def is_rocm(row: Row) -> bool:
    """Whether the row's GPUs are AMD's."""
    return row.hardware.startswith("MI")


def is_neighbour(row: Row, other: Row) -> bool:
    """Whether two rows are of models of one kind, dense or mixture of experts, on the same hardware."""
    return row.hardware == other.hardware and is_mixture(row) == is_mixture(other)


def is_namesake(row: Row, other: Row) -> bool:
    """Whether two rows are of the same model."""
    return known(row.model) == known(other.model)


def is_mixture(row: Row) -> bool:
    """Whether the row's model is a mixture of experts."""
    return isinstance(shapes(row).model.feed_forward, Experts)
