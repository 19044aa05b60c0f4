"""Deployments of a plan: the scenario of a choice, and the same hardware with multi-token prediction of one token."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from dspark_simulator.acceptance_prior import prior
from dspark_simulator.model_on_gpus import USUAL_MEM_FRACTION
from dspark_simulator.profile import load as load_profile
from dspark_simulator.scenario import Scenario
from dspark_simulator.scenario import load as load_scenario
from dspark_simulator.server import Server
from dspark_tuning.planning.question import Choice, Question
from sglang_dspark.errors import validated
from sglang_dspark.shapes.draft import USUAL
from sglang_dspark.shapes.gpus import GPUS
from sglang_dspark.shapes.known import known
from sglang_dspark.shapes.kv_pool import most_running
from sglang_dspark.shapes.model import DraftShape

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
    content = _fields(question, choice) | {
        "workload": question.workload.model_dump(),
        "loads": (1.0,),
        "replicas": 1,
        "router": question.router,
    }
    if choice.name is not None:
        content["name"] = choice.name
    scenario = validated(Scenario, content, f"choices: {content['name']}")
    shapes, computed = known(scenario.model), scenario.cost.computed_from()
    own = choice.draft if isinstance(choice.draft, DraftShape) else computed.draft if computed else None
    draft = own or (shapes.assumed_draft if shapes else USUAL)
    return Deployment(scenario.name, scenario, choice.price_per_gpu_hour, draft.layers, computed is not None)


def _fields(question: Question, choice: Choice) -> dict[str, Any]:
    """Fields of the choice's scenario, with room for many requests."""
    if choice.scenario is None and choice.profile is None:
        content = choice.fields(ROOMY)
        label = f"{content['model'].rpartition('/')[2]} on {choice.tp}x{choice.gpu}"
        shares: dict[str, float] = {}
        for klass in question.workload.classes:
            shares[klass.domain] = shares.get(klass.domain, 0.0) + klass.share
        assumed = prior(content["model"], shares, own_draft=choice.draft is not None)
        description = f"{content['description']} {assumed.because}"
        return {"name": label, **content, "description": description, "drafter_quality": assumed.logits}
    if choice.profile is not None:
        content = {"name": choice.profile.stem, **load_profile(choice.profile).deployment()}
        room = ROOMY
    else:
        scenario = load_scenario(choice.scenario or "")
        content, room = scenario.model_dump(), ROOMY | _limited(scenario)
    server = Server.model_validate(content.get("server", {}))
    return content | {"server": server.model_copy(update=room if server.capture_requests else {}).model_dump()}


def _limited(scenario: Scenario) -> dict[str, int]:
    """The running limit of a scenario whose model has recurrent states, by the memory that they take."""
    computed = scenario.cost.computed_from()
    if computed is None or computed.draft is None:
        return {}
    fraction = scenario.mem_fraction_static or USUAL_MEM_FRACTION
    gamma = scenario.server.gamma
    limit = most_running(GPUS[computed.gpu], computed.tp, fraction, computed.model, computed.draft, gamma)
    return {} if limit is None else {"max_running_requests": max(1, min(limit, ROOMY["max_running_requests"]))}


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
