"""Speed and memory of the simulator on the packaged default scenario.

Every case runs in a separate process, whose peak memory is measured: first a short run to compile, then a timed run
from the scenario to the result. The process is ``python -m dspark_tuning.measuring.bench.simulator CASE SCALE``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario
    from dspark_simulator.simulation import Arm

DECISION_REQUESTS = 256
DECISION_ROUNDS = 3000


class Case(NamedTuple):
    """A timed run.

    Attributes:
        rate_per_s: Rate of Poisson arrivals; None for a closed loop, or with ``open_loop``.
        clients: Clients of the closed loop.
        open_loop: Poisson arrivals at the rate of the closed loop, so that the batch is about ``clients``.
        policy: Aligned argmax on a server with room for all clients, instead of SGLang's defaults.
        repeats: Number of runs; the fastest counts.
    """

    requests: int
    rate_per_s: float | None = None
    clients: int = 0
    open_loop: bool = False
    policy: bool = False
    repeats: int = 3


CASES = {
    "low": Case(1_000, rate_per_s=2.0),
    "busy": Case(10_000, clients=32, open_loop=True),
    "full": Case(5_000, clients=256, policy=True),
    "large": Case(100_000, clients=32, open_loop=True, repeats=1),
}


def run(scale: float = 1.0) -> dict[str, Any]:
    """Measure every case, the cost of a decision, and the time of a first simulation and of ``--help``.

    Args:
        scale: Factor of the number of requests of every case.

    Returns:
        ``cases`` by name (requests_per_s, sim_s_per_s, mean_batch, rss_mb), ``decision_us`` by requests and family,
        ``first_result_s``, ``help_s``.
    """
    cases = {name: _in_child(name, scale) for name in CASES}
    command = "from dspark_tuning.cli import main; main()"
    _wall_s(command, "simulate")
    return {
        "cases": cases,
        "decision_us": {str(DECISION_REQUESTS): _in_child("decision", scale)},
        "first_result_s": _wall_s(command, "simulate"),
        "help_s": _wall_s(command, "--help"),
    }


def _in_child(case: str, scale: float) -> dict[str, float]:
    command = [sys.executable, "-m", "dspark_tuning.measuring.bench.simulator", case, str(scale)]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return figures


def _wall_s(command: str, argument: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", command, argument], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


def measure(case: Case, scale: float) -> dict[str, float]:
    """Time a case in this process."""
    from dspark_simulator.simulation import simulate

    scenario, arm = _prepare(case)
    simulate(_of_length(scenario, 20 + 4 * case.clients), arm)
    timed = _of_length(scenario, max(int(case.requests * scale), 20 + 4 * case.clients))
    wall_s = float("inf")
    for _ in range(case.repeats):
        start_s = time.perf_counter()
        result = simulate(timed, arm)
        wall_s = min(wall_s, time.perf_counter() - start_s)
    # Linux reports KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "requests_per_s": timed.run.requests / wall_s,
        "sim_s_per_s": result.simulated_s / wall_s,
        "mean_batch": result.running,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
    }


def _prepare(case: Case) -> tuple[Scenario, Arm]:
    from dspark_simulator.scenario import DEFAULT, load
    from dspark_simulator.simulation import Arm, simulate
    from dspark_tuning.search import baselines
    from sglang_dspark.policy import Argmax

    scenario = load(DEFAULT)
    arm = baselines.default(scenario)
    if case.policy:
        roomy = {"max_running_requests": case.clients, "capture_requests": case.clients}
        arm = Arm(baselines.ALIGNED, baselines.compact(scenario.server.model_copy(update=roomy)), Argmax(fill=True))
    if case.rate_per_s is not None:
        return scenario.with_workload(scenario.workload.with_rate(case.rate_per_s)), arm
    closed = scenario.with_workload(scenario.workload.with_clients(case.clients))
    if not case.open_loop:
        return closed, arm
    result = simulate(_of_length(closed, 2_000), arm)
    return scenario.with_workload(scenario.workload.with_rate(result.requests / result.window_s)), arm


def _of_length(scenario: Scenario, requests: int) -> Scenario:
    from dspark_simulator.scenario import Run

    warmup = min(requests - 1, max(requests // 10, 2 * (scenario.workload.clients or 0)))
    return scenario.model_copy(update={"run": Run(requests=requests, warmup_requests=warmup, max_s=1e9)})


def decisions() -> dict[str, float]:
    """Microseconds of a whole decision, called from Python, by policy family."""
    import numpy as np

    from dspark_simulator.scenario import DEFAULT, load
    from dspark_tuning.search.baselines import profiled_belief
    from sglang_dspark.policy import (
        Argmax,
        Engine,
        Fixed,
        Greedy,
        Load,
        NoDraft,
        Policy,
        Static,
        Threshold,
        budget,
        compile_rule,
        lengths,
        sglang_tiers,
        survival,
    )

    scenario = load(DEFAULT)
    requests, gamma = DECISION_REQUESTS, scenario.drafter_gamma
    random = np.random.default_rng(0)
    lagged, current = (survival(random.beta(5, 1, (requests, gamma)).astype(np.float32)) for _ in range(2))
    load_now = Load(random.integers(100, 8000, requests), np.zeros(requests, np.int64))
    engine = Engine(gamma, sglang_tiers(requests, gamma), requests, profiled_belief(scenario, gamma))
    policies: list[Policy] = [
        NoDraft(),
        Fixed(length=3),
        Static(theta=0.3),
        Greedy(),
        Argmax(fill=True),
        Threshold(running=(1, 32, 512), theta=(0.05, 0.2, 0.5), price_per_token=1e-5, fill=True),
    ]
    by_family = {}
    for policy in policies:
        rule = compile_rule(policy, engine)
        lengths(rule, current, load_now, budget(rule, lagged, load_now).cap)
        start_s = time.perf_counter()
        for _ in range(DECISION_ROUNDS):
            lengths(rule, current, load_now, budget(rule, lagged, load_now).cap)
        by_family[policy.family] = 1e6 * (time.perf_counter() - start_s) / DECISION_ROUNDS
    return by_family


if __name__ == "__main__":
    _case, _scale = sys.argv[1], float(sys.argv[2])
    print(json.dumps(decisions() if _case == "decision" else measure(CASES[_case], _scale)))
