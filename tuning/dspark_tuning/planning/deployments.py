"""Deployments of a plan: the scenario of a choice, and the same hardware with multi-token prediction of one token."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from dspark_simulator.deployment import Memory
from dspark_simulator.profile import load as load_profile
from dspark_simulator.scenario import Scenario
from dspark_simulator.scenario import load as load_scenario
from dspark_simulator.server import Server
from dspark_tuning.planning.question import Choice, Question
from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.shapes import config as hf_config
from sglang_dspark.shapes.draft import USUAL
from sglang_dspark.shapes.gpus import GPUS
from sglang_dspark.shapes.known import known, unknown
from sglang_dspark.shapes.kv_pool import PoolFlags, kv_capacity_tokens, most_running
from sglang_dspark.shapes.model import DraftShape, ModelShape

# Range of live steps around a roofline at the usual efficiencies.
ROOFLINE_LIVE: Final = {"overhead_s": (0.0, 0.003), "slope": (0.85, 1.15)}
# Server flags with room for many requests: the flags of a choice before tuning.
ROOMY: Final[dict[str, Any]] = {
    "verify_mode": "static",
    "max_running_requests": 512,
    "capture_requests": 512,
    "cuda_graph_bs_decode": None,
}


class Deployment(NamedTuple):
    """A choice as a scenario.

    Attributes:
        scenario: One replica with the whole traffic of the plan.
        draft_layers: Layers of the DSpark draft.
        derived: The step times come from a roofline instead of a measurement.
    """

    name: str
    scenario: Scenario
    price_per_gpu_hour: float
    draft_layers: int
    derived: bool


def deployment(question: Question, choice: Choice) -> Deployment:
    """Build the deployment of a choice under the traffic of the question.

    Raises:
        InputError: An unusable source, a model that does not fit, or traffic of a domain that the acceptance model of
            the drafter does not describe.
    """
    if choice.scenario is not None:
        scenario = load_scenario(choice.scenario)
        content = scenario.model_dump()
    else:
        content = _profiled(choice) if choice.profile is not None else _roofline(choice)
    content |= {
        "name": choice.name or content.get("name") or _label(choice),
        "workload": question.workload.model_dump(),
        "loads": (1.0,),
        "replicas": 1,
        "router": question.router,
    }
    server = Server.model_validate(content.get("server", {}))
    room = ROOMY | {"max_running_requests": content.pop("most_running", None) or ROOMY["max_running_requests"]}
    content["server"] = server.model_copy(update=room if server.capture_requests else {}).model_dump()
    try:
        scenario = Scenario.model_validate(content)
    except ValidationError as error:
        raise from_validation(error, f"choices: {content['name']}", content) from error
    shapes = known(scenario.model)
    draft = choice.draft or (shapes.assumed_draft if shapes else USUAL)
    computed = scenario.cost.computed_from() is not None
    return Deployment(scenario.name, scenario, choice.price_per_gpu_hour, draft.layers, computed)


def one_token(deployed: Deployment) -> Scenario | None:
    """The deployment with multi-token prediction of one token (MTP-1) instead of DSpark; None if its cost is unknown.

    Its token is accepted like the first of a DSpark block, and it drafts with one layer: for a roofline by its shape,
    for a measured curve in the share of one layer of the draft time. A table does not separate the draft.
    """
    scenario = deployed.scenario
    cost = scenario.cost.with_one_token_draft(deployed.draft_layers)
    if cost is None:
        return None
    drafter = scenario.drafter()
    first = {name: d.model_copy(update={"offsets": d.offsets[:1]}) for name, d in drafter.domains.items()}
    acceptance = drafter.model_copy(
        update={
            "drafter": "MTP-1",
            "slope": drafter.slope[:1],
            "bias": drafter.bias[:1],
            "sts": drafter.sts[:1],
            "domains": first,
        }
    )
    return scenario.model_copy(
        update={
            "cost": cost,
            "acceptance": acceptance,
            "drafter_quality": 0.0,
            "drafter_gamma": 1,
            "server": scenario.server.model_copy(update={"gamma": 1}),
        }
    )


def _label(choice: Choice) -> str:
    source = (
        choice.profile.stem if choice.profile else choice.model or (choice.config.parent.name if choice.config else "")
    )
    return f"{source.rsplit('/', 1)[-1]} on {choice.tp}x{choice.gpu}" if choice.gpu else source


def _profiled(choice: Choice) -> dict[str, Any]:
    assert choice.profile is not None
    return load_profile(choice.profile).deployment()


def _roofline(choice: Choice) -> dict[str, Any]:
    assert choice.gpu is not None
    name, shape, draft = _shapes(choice)
    gpu, room = GPUS[choice.gpu], ROOMY["max_running_requests"]
    limit = most_running(gpu, choice.tp, choice.mem_fraction, shape, draft, draft.block)
    running = room if limit is None else max(1, min(room, limit))
    flags = Server.model_validate({"gamma": draft.block, **ROOMY, "max_running_requests": running}).pool_flags()
    content: dict[str, Any] = {
        "name": choice.name or _label(choice),
        "model": name,
        "hardware": f"{choice.tp}x{choice.gpu}" if choice.tp > 1 else choice.gpu,
        "gpus": choice.tp,
        "drafter_gamma": draft.block,
        "server": {"gamma": draft.block},
        "most_running": running,
        "cost": {
            "kind": "roofline",
            "gpu": choice.gpu,
            "tp": choice.tp,
            "model": shape.model_dump(),
            "draft": draft.model_dump(),
        },
        "live": ROOFLINE_LIVE,
        "memory": memory(choice.gpu, choice.tp, choice.mem_fraction, shape, draft, flags, name).model_dump(),
    }
    return content


def _shapes(choice: Choice) -> tuple[str, ModelShape, DraftShape]:
    if choice.config is not None:
        shape = hf_config.read(choice.config, choice.kv_cache_dtype)
        return str(choice.config), shape, choice.draft or USUAL
    assert choice.model is not None
    shapes = known(choice.model, choice.kv_cache_dtype)
    if shapes is None:
        raise unknown(choice.model, "choices: model")
    return choice.model, shapes.model, choice.draft or shapes.assumed_draft


def memory(
    gpu: str, tp: int, fraction: float, model: ModelShape, draft: DraftShape, flags: PoolFlags, name: str
) -> Memory:
    """KV pools of a replica with ``flags``.

    Raises:
        InputError: The weights and the request slots do not fit.
    """
    device = GPUS[gpu]

    def pools(gpus: int) -> Memory | None:
        with_draft, without = (kv_capacity_tokens(device, gpus, fraction, model, d, flags) for d in (draft, None))
        if min(with_draft, without) < 1:
            return None
        return Memory(kv_tokens=with_draft, kv_tokens_without_draft=without, at=flags)

    here = pools(tp)
    if here is None:
        needed = model.weight_bytes() + draft.weight_bytes(model)
        fits = next((n for n in range(tp + 1, 65) if pools(n)), None)
        remedy = f"give tp {fits} or more" if fits else "choose a GPU with more memory"
        raise InputError(
            f"choices: {name}: weights of {needed / 1e9:.0f} GB and {flags.max_running_requests} request slots "
            f"do not fit {tp} {gpu} of {device.memory_bytes / 1e9:.0f} GB at mem_fraction {fraction}; {remedy}"
        )
    return here
