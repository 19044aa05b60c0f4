"""What a tuned policy is compared with: every way of serving that an engine offers today."""

from __future__ import annotations

from dspark_simulator.costs import sps_additive
from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from sglang_dspark.policy import Argmax, Greedy, SpsAdditiveTable, Static
from sglang_dspark.policy.belief import MAX_REQUESTS, MAX_TOKENS

PLAIN = "no speculation"
DEFAULT = "SGLang's defaults"
TUNED_FLAGS = "dspark, tuned flags"
ARGMAX = "argmax"
ALIGNED = "argmax, aligned"
ALIGNED_DEFAULT_FLAGS = "argmax, aligned, default flags"
GREEDY = "greedy"
STATIC = "best static threshold"
ORACLE = "oracle (bound)"
TUNED = "tuned"

STATIC_THETAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def fixed_name(gamma: int) -> str:
    return f"fixed {gamma}"


def profiled_belief(scenario: Scenario, gamma: int) -> SpsAdditiveTable:
    """What a profiler writes for a server of ``gamma``: the belief that the search and ``argmax`` share."""
    return sps_additive(scenario.profiled_steps(gamma), MAX_REQUESTS, MAX_TOKENS)


def plain(scenario: Scenario) -> Arm:
    """The scenario's server without speculation, which has the larger KV pool."""
    return Arm(PLAIN, scenario.server.without_speculation(), stock=True)


def default(scenario: Scenario) -> Arm:
    """DSPARK with the scenario's own flags: static, no table."""
    return Arm(DEFAULT, scenario.server.model_copy(update={"verify_mode": "static"}), stock=True)


def static_threshold(server: Server, theta: float) -> Arm:
    return Arm(STATIC, compact(server), Static(theta=theta))


def compact(server: Server) -> Server:
    """The same flags in compact mode, which a budget needs to save anything."""
    return server.model_copy(update={"verify_mode": "compact"})


def baselines(scenario: Scenario, server: Server, static_theta: float) -> list[Arm]:
    """Every baseline, beside a server whose flags were tuned.

    Args:
        server: The tuned flags.
        static_theta: The best single threshold under them.
    """
    belief, table = profiled_belief(scenario, server.gamma), scenario.planner_table(server.gamma)
    whole = server.model_copy(update={"verify_mode": "static", "gamma": scenario.drafter_gamma})
    return [
        plain(scenario),
        default(scenario),
        Arm(TUNED_FLAGS, whole, stock=True),
        *(
            Arm(fixed_name(gamma), whole.model_copy(update={"gamma": gamma}), stock=True)
            for gamma in range(1, scenario.drafter_gamma + 1)
        ),
        static_threshold(server, static_theta),
        Arm(GREEDY, compact(server), Greedy(), belief),
        Arm(ARGMAX, compact(server), Argmax(), table, stock=True),
        Arm(ALIGNED, compact(server), Argmax(fill=True), table, stock=True),
        Arm(
            ALIGNED_DEFAULT_FLAGS,
            compact(scenario.server),
            Argmax(fill=True),
            scenario.planner_table(scenario.server.gamma),
            stock=True,
        ),
    ]


def oracle(server: Server) -> Arm:
    """Knows each step's acceptances and maximises its tokens per second: a reference, not a policy."""
    return Arm(ORACLE, compact(server), oracle=True)
