"""Arms by name (``plain``, ``fixed-3``, ``aligned``, ...) and from a policy artifact."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_simulator.wrong_kind import check_kind
from dspark_tuning.search import baselines, server_flags
from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.policy import Argmax, Greedy
from sglang_dspark.policy.artifact import load

ARMS = "plain, default, fixed-N, static-THETA, greedy, argmax, aligned or oracle"


def named(name: str, scenario: Scenario) -> Arm:
    """The serving mode ``name`` with the flags of the scenario.

    Raises:
        InputError: Unknown name, or a length or threshold out of range.
    """
    server = scenario.server
    known = {
        "plain": baselines.plain(scenario),
        "default": baselines.default(scenario),
        "greedy": Arm(baselines.GREEDY, baselines.compact(server), Greedy()),
        "argmax": Arm(baselines.ARGMAX, baselines.compact(server), Argmax(), stock=True),
        "aligned": Arm(baselines.ALIGNED, baselines.compact(server), Argmax(fill=True), stock=True),
        "oracle": baselines.oracle(server),
    }
    if name in known:
        return known[name]
    if match := re.fullmatch(r"fixed-(\d{1,2})", name):
        gamma = int(match[1])
        if not 1 <= gamma <= scenario.drafter_gamma:
            raise InputError(
                f"arm: {name!r} is outside the drafter's block; give fixed-1 to fixed-{scenario.drafter_gamma}"
            )
        return baselines.default(
            scenario.model_copy(update={"server": server.model_copy(update={"gamma": gamma})})
        )._replace(name=baselines.fixed_name(gamma))
    if match := re.fullmatch(r"static-([01]|0?\.\d+)", name):
        return baselines.static_threshold(server, float(match[1]))._replace(name=f"static {match[1]}")
    raise InputError(f"arm: {name!r} is not known; give {ARMS}")


def tuned(path: Path, scenario: Scenario) -> Arm:
    """The policy of an artifact, on a server with the flags of that artifact.

    Raises:
        InputError: Not an artifact, a flag that the simulated server does not support, or a policy for another drafter
            or other request classes.
    """
    check_kind(path, "policy")
    artifact = load(path)
    if artifact.serve == "plain":
        return baselines.plain(scenario)
    if artifact.gamma > scenario.drafter_gamma:
        raise InputError(
            f"{path}: gamma: {artifact.gamma} is beyond the block of {scenario.name}'s drafter; "
            f"use a policy with at most {scenario.drafter_gamma}"
        )
    classes = tuple(klass.name for klass in scenario.workload.classes)
    if artifact.classes != classes and len(set(getattr(artifact.policy, "weight", ()))) > 1:
        raise InputError(
            f"{path}: classes: {', '.join(artifact.classes)} are weighted, but {scenario.name} has "
            f"{', '.join(classes)}; tune for that scenario"
        )
    settings = artifact.server_flags | artifact.environment
    changed = server_flags.fields(settings) | {"gamma": artifact.gamma, "speculative": True}
    fields = scenario.server.model_dump() | changed
    try:
        server = Server.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, path) from error
    return Arm(str(path), server, artifact.policy, artifact.cost_belief)
