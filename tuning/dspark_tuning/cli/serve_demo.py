"""Tune for a real server on this machine's CPU and compare serving modes: ``python -m dspark_tuning.cli.serve_demo``.

It starts SGLang with the demo pair, calibrates a profile on it, tunes a policy, and measures SGLang's serving modes and
the tuned policy. Speed on a CPU says nothing about a GPU: on a CPU every verified token costs compute, so the server
without speculation may well be the fastest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dspark_tuning.cli.common import print_text
from dspark_tuning.measuring.sim2real import experiment
from dspark_tuning.measuring.sim2real.cells import CLIENTS
from dspark_tuning.reporting import sim2real


def main() -> None:
    """Run the demo and print its results."""
    parser = argparse.ArgumentParser(prog="python -m dspark_tuning.cli.serve_demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/serve-demo"), help="folder for logs and the policy")
    parser.add_argument("--trials", type=int, default=48, help="candidates that the tuner tries")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    served = experiment.serve_demo(options.out, options.trials, lambda text: print(text, file=sys.stderr, flush=True))
    fastest = []
    for clients in CLIENTS:
        rows = [row for row in served.modes if row.load == str(clients)]
        best = max(rows, key=lambda row: row.measured.throughput_tok_s)
        fastest.append(f"fastest on this CPU at {clients} clients: {best.name}")
    print_text(
        sim2real.cells("Serving modes on this CPU (no statement about a GPU), by clients", served.modes),
        sim2real.LENGTHS,
        *sim2real.gains(served.modes, experiment.TUNED),
        f"policy: {served.tuned.policy.family}. {served.tuned.advice}",
        *fastest,
        f"reloaded {served.reloads} times under load: {served.failed} of {served.requests} requests failed",
    )


if __name__ == "__main__":
    main()
