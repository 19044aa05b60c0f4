"""The whole way on one machine without a GPU: profile a real server, tune a policy for it, and see what it gains.

``python -m sglang_dspark.demo.serve`` starts SGLang four times with the demo pair, sends each the same mixed load, and
prints what came of it. Speed on a CPU says nothing about a GPU: here verifying a token costs compute from the first one
on, so a plain server may well be the fastest, and it is the policy's task to find that out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from sglang_dspark.demo import STS
from sglang_dspark.demo.load import Loaded, Prompt, closed_loop
from sglang_dspark.demo.profile import fit, measure, worst_error
from sglang_dspark.demo.server import DSPARK, Server
from sglang_dspark.demo.text import CLASSES, held_out
from sglang_dspark.policy import AnyPolicy, Fixed, SpsAdditiveTable
from sglang_dspark.policy.artifact import Artifact, load, save, untuned
from sglang_dspark.policy.belief import sps_json
from sglang_dspark.serving.launch import POLICY

GAMMA: Final = 7
CLIENTS: Final = (1, 4, 16)
PROMPT_TOKENS: Final = 64
OUTPUT_TOKENS: Final = 48
RELOADS: Final = 20
# All servers count and record alike, so that they differ in what is compared.
FLAGS: Final = {"--enable-metrics": ""}
RECORD: Final = {"SGLANG_DSPARK_ENABLE_SPS_RECORD": "1"}
COMPACT: Final = {**RECORD, "SGLANG_RAGGED_VERIFY_MODE": "compact"}
DEADLINE_S: Final = 300.0


class Served(NamedTuple):
    """One way of serving under every load of ``CLIENTS``."""

    name: str
    loads: dict[int, Loaded]


def prompts(count: int, seed: int) -> list[Prompt]:
    """Held-out text of every class in turn."""
    by_class = [held_out(klass, -(-count // len(CLASSES)), PROMPT_TOKENS, seed) for klass in CLASSES]
    rows = (zip(row, CLASSES, strict=True) for row in zip(*by_class, strict=True))
    return [Prompt(text, OUTPUT_TOKENS, klass) for row in rows for text, klass in row][:count]


def run(server: Server, name: str) -> Served:
    """Sends the load of the demo, the smallest number of clients first."""
    found = {}
    for clients in CLIENTS:
        closed_loop(server, prompts(clients, 7), clients)  # Warms up, and fills the prefix cache with other text.
        found[clients] = closed_loop(server, prompts(max(6, 3 * clients), clients), clients)
        print(f"{name}: {clients} clients: {found[clients].tokens_per_s:.0f} tokens/s", flush=True)
    return Served(name, found)


def artifact(policy: AnyPolicy, belief: SpsAdditiveTable) -> Artifact:
    """A policy for the demo pair, before there is a tuned one."""
    return untuned(policy, belief, GAMMA, classes=CLASSES, sts_temperatures=temperatures())


def temperatures() -> tuple[float, ...]:
    """The demo pair's confidence temperatures."""
    return tuple(json.loads(STS.read_text())["temperatures"])


def scenario(table: SpsAdditiveTable) -> dict[str, Any]:
    """The demo as the tuner's input.

    Acceptance is the paper's drafter's on its least predictable data sets, which comes nearest to this pair's; and the
    simulator's plain server has the overhead of a step that rests, which is more than the real one's.
    """
    lengths = {"kind": "fixed", "tokens": OUTPUT_TOKENS}
    classes = [
        {
            "name": name,
            "domain": domain,
            "prompt": {"kind": "fixed", "tokens": PROMPT_TOKENS},
            "output": lengths,
            "max_new_tokens": OUTPUT_TOKENS,
            "slo": {"ttft_s": 5.0, "tpot_s": 0.5},
        }
        for name, domain in zip(CLASSES, ("arena-hard-v2", "alpaca", "mt-bench"), strict=True)
    ]
    return {
        "name": "demo",
        "model": "demo pair",
        "hardware": "this machine's CPU",
        "drafter_gamma": GAMMA,
        "server": {"max_running_requests": 16, "capture_requests": 16, "verify_mode": "compact"},
        "memory": {"kv_tokens": 32768, "kv_tokens_without_draft": 32768},
        "cost": {"kind": "table", "table": json.loads(sps_json(table))},
        "live": {"overhead_s": [0.0, 0.01], "slope": [0.8, 1.2]},
        "workload": {"arrivals": {"kind": "closed", "clients": 4}, "classes": classes},
        "loads": list(CLIENTS),
        "run": {"requests": 120, "warmup_requests": 20},
    }


def tune(table: SpsAdditiveTable, folder: Path, trials: int) -> Path:
    """Runs ``dspark tune`` on this machine's costs, with the flags that the server has."""
    source = folder / "scenario.yaml"
    source.write_text(yaml.safe_dump(scenario(table), sort_keys=False))
    pins = {"gamma": GAMMA, "max_running_requests": 16, "capture_requests": 16, "verify_mode": "compact"}
    words = [word for name, value in pins.items() for word in ("--pin", f"{name}={value}")]
    out = folder / "tuned"
    command = [sys.executable, "-m", "dspark_tuning.cli", "tune", str(source), "--out", str(out), *words]
    subprocess.run([*command, "--trials", str(trials), "--replications", "6"], check=True)
    return out / "policy.json"


@contextmanager
def policy_server(folder: Path, policy: Path) -> Iterator[Server]:
    flags = {**FLAGS, **DSPARK, POLICY: str(policy), "--speculative-dspark-fallback-margin": "0"}
    with Server(folder / "ours.log", flags, COMPACT) as server:
        yield server


def put_in_force(server: Server, artifact: Artifact, path: Path) -> None:
    """Replaces the policy file of a server that is answering requests, and waits until it is followed.

    Raises:
        TimeoutError: It is not; the server's log says why.
    """
    save(artifact, path)
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    deadline = time.monotonic() + DEADLINE_S
    while server.state()["dspark_policy"]["sha256"] != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is not followed; the end of {server.log}:\n{server.tail()}")
        time.sleep(0.1)


def reload_under_load(server: Server, artifacts: Sequence[Artifact], path: Path, times: int) -> Loaded:
    """Replaces the policy by each of ``artifacts`` in turn while requests run; the answers tell whether any failed."""

    def replace(done: int) -> None:
        if done % 3 == 0:
            save(artifacts[done // 3 % len(artifacts)], path)

    return closed_loop(server, prompts(3 * times, 11), 8, replace)


def show(served: list[Served]) -> None:
    console = Console()
    table = Table(title="tokens per second of this CPU, by clients (no statement about a GPU)")
    for name in ("", *(f"{clients}" for clients in CLIENTS)):
        table.add_column(name, justify="right" if name else "left")
    for way in served:
        table.add_row(way.name, *(f"{way.loads[clients].tokens_per_s:.0f}" for clients in CLIENTS))
    console.print(table)
    table = Table(title=f"accepted length (tokens a round) / verify length (drafts a round), {CLIENTS[-1]} clients")
    for name in ("", *CLASSES):
        table.add_column(name, justify="right" if name else "left")
    for way in served:
        parts = [way.loads[CLIENTS[-1]].of(klass) for klass in CLASSES]
        # A server that verifies whole blocks, or none, does not tell lengths.
        verified = ["-" if math.isnan(part.verify_length) else f"{part.verify_length:.2f}" for part in parts]
        table.add_row(way.name, *(f"{p.accepted_length:.2f} / {v}" for p, v in zip(parts, verified, strict=True)))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sglang_dspark.demo.serve", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/serve-demo"), help="folder for logs and the policy")
    parser.add_argument("--trials", type=int, default=48, help="candidates that the tuner tries")
    options = parser.parse_args()
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    served = []
    with Server(folder / "plain.log", FLAGS, RECORD) as server:
        served.append(run(server, "no speculation"))
    with Server(folder / "static.log", {**FLAGS, **DSPARK}, RECORD) as server:
        served.append(run(server, "SGLang's defaults"))

    guess = SpsAdditiveTable(
        bias_seconds=0.05, bs_probes=(1,), alpha_seconds=(0.0,), m_probes=(1,), theta_seconds=(0.0,)
    )
    path = folder / "policy.json"
    save(artifact(Fixed(length=GAMMA), guess), path)
    with policy_server(folder, path) as server:
        cells = measure(
            server,
            held_out("code", max(CLIENTS), PROMPT_TOKENS, 1),
            lambda policy: put_in_force(server, artifact(policy, guess), path),
        )
        table = fit(cells)
        for rest in (cell for cell in cells if not cell.drafted):
            whole = max((c for c in cells if c.requests == rest.requests), key=lambda c: c.verify_tokens)
            print(
                f"a step of {rest.requests}: {1000 * rest.step_s:.0f} ms without a draft, "
                f"{1000 * whole.step_s:.0f} ms drafted and verified whole",
                flush=True,
            )
        print(f"profiled {len(cells)} loads; the table is within {worst_error(cells, table):.0%} of each", flush=True)
        tuned = load(tune(table, folder, options.trials))
        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(closed_loop, server, prompts(6, 5), 2)
            put_in_force(server, tuned, path)
            answers.result()
        served.append(run(server, "ours, tuned"))
        reloads = server.state()["dspark_policy"]["version"]
        loaded = reload_under_load(server, (artifact(Fixed(length=3), table), tuned), path, RELOADS)
        reloads = server.state()["dspark_policy"]["version"] - reloads
    sps = folder / "sps_table.json"
    sps.write_text(sps_json(table))
    flags = {**FLAGS, **DSPARK, "--speculative-dspark-sps-table-path": str(sps)}
    with Server(folder / "budget.log", flags, COMPACT) as server:
        served.insert(2, run(server, "SGLang's own budget, profiled table"))
    show(served)
    print(f"policy: {tuned.policy.family}. {tuned.advice}")
    for clients in CLIENTS:
        best = max(served, key=lambda way: way.loads[clients].tokens_per_s)
        print(f"fastest on this CPU at {clients} clients: {best.name}")
    print(f"reloaded {reloads} times under load: {loaded.failed} of {len(loaded.answers)} requests failed")


if __name__ == "__main__":
    main()
