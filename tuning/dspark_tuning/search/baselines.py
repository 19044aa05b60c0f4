"""Baselines of a tuned policy: the serving modes that SGLang offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspark_simulator.costs import sps_additive
from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.search.own_flags import own_flags
from sglang_dspark.policy import Argmax, Greedy, SpsAdditiveTable, Static
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS

PLAIN = "no speculation"
DEFAULT = "SGLang's defaults"
TUNED_FLAGS = "dspark, tuned flags"
ARGMAX = "argmax"
ALIGNED = "argmax, aligned"
ALIGNED_DEFAULT_FLAGS = "argmax, aligned, default flags"
OWN_FLAGS = "dspark, own flags"
ALIGNED_OWN_FLAGS = "argmax, aligned, own flags"
START = "start (no search)"
STOCK = "unmodified SGLang, tuned"
GREEDY = "greedy"
STATIC = "best static threshold"
ORACLE = "step oracle"
TUNED = "tuned"

STATIC_THETAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def fixed_name(gamma: int) -> str:
    """Name of the arm that drafts and verifies ``gamma`` tokens in every round."""
    return f"fixed {gamma}"


def profiled_belief(scenario: Scenario, gamma: int) -> SpsAdditiveTable:
    """Cost table of SGLang's profiler for a block of ``gamma`` drafts: the belief of the search and of ``argmax``."""
    return sps_additive(scenario.profiled_steps(gamma), MAX_REQUESTS, MAX_TOKENS)


def plain(scenario: Scenario) -> Arm:
    """Arm without speculation, which has the larger KV pool."""
    return Arm(PLAIN, scenario.server.without_speculation(), stock=True)


def default(scenario: Scenario) -> Arm:
    """SGLang's defaults: DSPARK in static mode, without a cost table, with the flags of the scenario."""
    return whole_blocks(DEFAULT, scenario.server)


def whole_blocks(name: str, server: Server) -> Arm:
    """DSPARK without a cost table: every draft is verified."""
    return Arm(name, server.model_copy(update={"verify_mode": "static"}), stock=True)


def aligned(name: str, scenario: Scenario, server: Server) -> Arm:
    """SGLang's planner with the profiled table, its budget rounded up to captured batch sizes."""
    return Arm(name, compact(server), Argmax(fill=True), scenario.planner_table(server.gamma), stock=True)


def static_threshold(server: Server, theta: float) -> Arm:
    """Verify drafts whose survival is at least ``theta``, at every load."""
    return Arm(STATIC, compact(server), Static(theta=theta))


def compact(server: Server) -> Server:
    """The server in compact mode, without which a budget saves no work."""
    return server.model_copy(update={"verify_mode": "compact"})


def baselines(scenario: Scenario, server: Server, static_theta: float) -> list[Arm]:
    """Baselines with the flags of the scenario and with those of a tuned server.

    Args:
        server: The tuned flags.
        static_theta: The best static threshold with the tuned flags.
    """
    belief, table = profiled_belief(scenario, server.gamma), scenario.planner_table(server.gamma)
    gammas = range(1, scenario.drafter_gamma + 1)
    return [
        default(scenario),
        whole_blocks(TUNED_FLAGS, server.model_copy(update={"gamma": scenario.drafter_gamma})),
        *(whole_blocks(fixed_name(gamma), server.model_copy(update={"gamma": gamma})) for gamma in gammas),
        static_threshold(server, static_theta),
        Arm(GREEDY, compact(server), Greedy(), belief),
        Arm(ARGMAX, compact(server), Argmax(), table, stock=True),
        aligned(ALIGNED, scenario, server),
        aligned(ALIGNED_DEFAULT_FLAGS, scenario, scenario.server),
    ]


def with_own_flags(
    scenario: Scenario, flags: Mapping[str, Sequence[Any]], score: Callable[[list[Arm]], list[float]]
) -> list[Arm]:
    """Modes of an unmodified SGLang, each with the best flags for it: no speculation, whole blocks, its planner.

    Args:
        flags: Values to try by server field: those of the search space.
        score: See :func:`dspark_tuning.search.own_flags.own_flags`.
    """
    drafting = {"gamma", "verify_mode"}
    plain_flags = {name: values for name, values in flags.items() if name not in drafting}
    block_flags = {name: values for name, values in flags.items() if name != "verify_mode"}
    room = scenario.has_room
    return [
        own_flags(lambda server: Arm(PLAIN, server, stock=True), plain(scenario).server, plain_flags, score, room),
        own_flags(lambda server: whole_blocks(OWN_FLAGS, server), scenario.server, block_flags, score, room),
        own_flags(
            lambda server: aligned(ALIGNED_OWN_FLAGS, scenario, server),
            compact(scenario.server),
            block_flags,
            score,
            room,
        ),
    ]


def on_stock(arm: Arm) -> Arm:
    """Flags and belief of an arm on an unmodified SGLang: its planner, with the belief as cost table."""
    return Arm(f"{arm.name}, unmodified", compact(arm.server), Argmax(fill=True), arm.belief, stock=True)


def oracle(server: Server) -> Arm:
    """Reference arm that knows the acceptances of each step and maximises the tokens per second of that step.

    It is not a bound on a run: a sequence of best steps is not always the best sequence.
    """
    return Arm(ORACLE, compact(server), oracle=True)
