"""Compare measured and simulated runs of the GPU check's cost stage: running limits and prefill intervals.

``python -m dspark_tuning.cli.saturated DIR SCENARIO.yaml``: ``DIR`` is the stage's folder, the scenario the output of
``dspark calibrate --scenario`` on it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dspark_simulator.deployment import Memory
from dspark_simulator.result import Result
from dspark_simulator.scenario import Scenario, load
from dspark_simulator.server import Server
from dspark_simulator.simulation import simulate
from dspark_tuning.cli.common import print_text
from dspark_tuning.reporting.numbers import milliseconds, number
from dspark_tuning.reporting.table import Table
from dspark_tuning.search import baselines
from sglang_dspark.errors import InputError

NAMED = re.compile(r"plain: at most (\d+) running, prefill interval (\d+)")


class Pair(NamedTuple):
    """Means of one setting of the server without speculation: tokens/s and seconds."""

    limit: int
    interval: int
    measured_tok_s: float
    simulated_tok_s: float
    measured_ttft_s: float
    simulated_ttft_s: float
    measured_tpot_s: float
    simulated_tpot_s: float


def pairs(folder: Path, measured: Scenario) -> Iterator[Pair]:
    """Simulate every setting that the stage has measured.

    Raises:
        InputError: The folder holds no result of the stage.
    """
    source = folder / "cost.json"
    try:
        cells = json.loads(source.read_text())["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{source}: cannot be read ({error}); give the folder of the cost stage") from error
    for name, cell in cells.items():
        if (setting := NAMED.fullmatch(name)) is None or "result" not in cell:
            continue
        limit, interval = int(setting[1]), int(setting[2])
        result = cell["result"]["result"]
        simulated = _simulated(folder / f"saturated-{limit}-{interval}.yaml", measured, limit, interval)
        yield Pair(
            limit,
            interval,
            result["throughput_tok_s"],
            simulated.throughput_tok_s,
            result["ttft"]["mean_s"],
            simulated.ttft.mean_s,
            result["tpot"]["mean_s"],
            simulated.tpot.mean_s,
        )


def _simulated(traffic: Path, measured: Scenario, limit: int, interval: int) -> Result:
    sent = load(str(traffic))
    server = Server(
        speculative=False,
        max_running_requests=limit,
        capture_requests=limit,
        chunked_prefill_size=8192,
        prefill_decode_interval=interval,
    )
    memory = Memory(kv_tokens=450_000, kv_tokens_without_draft=450_000)
    changed = {"workload": sent.workload, "run": sent.run, "server": server, "memory": memory}
    scenario = measured.model_copy(update=changed)
    return simulate(scenario, baselines.plain(scenario))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dspark_tuning.cli.saturated", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("scenario", metavar="SCENARIO.yaml")
    options = parser.parse_args()
    columns = ["Running", "Interval", "Tokens/s", "Simulated", "TTFT ms", "Simulated", "TPOT ms", "Simulated"]
    rows = [
        [
            str(pair.limit),
            str(pair.interval),
            number(pair.measured_tok_s),
            number(pair.simulated_tok_s),
            *map(
                milliseconds,
                (pair.measured_ttft_s, pair.simulated_ttft_s, pair.measured_tpot_s, pair.simulated_tpot_s),
            ),
        ]
        for pair in pairs(options.folder, load(options.scenario))
    ]
    print_text(Table("Limits on running requests and prefill intervals", columns, rows))


if __name__ == "__main__":
    main()
