"""``dspark scenario``: deployments and their traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.cli.common import Domain, Json, new, print_json, print_text, say_what_was_read
from dspark_tuning.cli.deployment_options import DeploymentOptions, with_deployment_options
from dspark_tuning.cli.remarks import warn
from dspark_tuning.cli.trace_options import TraceChoice, takes_trace

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario

app = typer.Typer(help="Deployments and their traffic.", no_args_is_help=True)


@app.command("list")
def list_packaged(as_json: Json = False) -> None:
    """List the packaged scenarios."""
    from dspark_simulator.scenario import load, names
    from dspark_tuning.reporting import results

    rows = [_summary(load(name)) for name in names()]
    if as_json:
        print_json(rows)
    else:
        print_text(results.scenarios(rows))


@app.command("new")
@with_deployment_options
@takes_trace
def new_file(
    options: DeploymentOptions,
    trace: TraceChoice | None = None,
    domain: Domain = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the file there. \\[default: stdout]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a scenario file of a model on GPUs: step times and KV pool computed, every assumption named.

    `simulate`, `tune`, `ui` and `plan` take the file, or the same options directly.
    """
    from dspark_simulator.scenario_file import to_yaml
    from sglang_dspark.errors import InputError
    from sglang_dspark.files import write_atomically

    if not options.given:
        raise InputError("model: missing; give --model or --config, with --gpu")
    scenario = new(options, trace, domain)
    warn(scenario, scenario.name)
    say_what_was_read(scenario.workload)
    text = to_yaml(scenario)
    if out is not None:
        write_atomically(out, text)
    if as_json:
        print_json(scenario.model_dump(mode="json"))
    elif out is None:
        print(text, end="")
    else:
        print(f"{out}: {scenario.description}")


@app.command()
def show(
    scenario: Annotated[str, typer.Argument(help="A packaged scenario or a YAML file.")], as_json: Json = False
) -> None:
    """Print a scenario: its YAML as written, or with --json all its fields with their defaults."""
    from dspark_simulator.scenario import PACKAGED, load, names

    parsed = load(scenario)
    if as_json:
        print_json(parsed.model_dump(mode="json"))
    else:
        source = PACKAGED / f"{scenario}.yaml" if scenario in names() else Path(scenario)
        print(source.read_text(), end="")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A scenario's YAML file.", show_default=False)], as_json: Json = False
) -> None:
    """Check a scenario file: errors, and warnings of values that cannot be meant, name the field and the remedy."""
    from dspark_simulator.scenario import load

    scenario = load(str(file))
    say_what_was_read(scenario.workload)
    warnings = warn(scenario, str(file))
    row = _summary(scenario)
    if as_json:
        print_json({"file": file, "valid": True, "warnings": warnings, **row})
    else:
        print(f"{file}: ok: {row['name']}, {row['model']} on {row['hardware']}, {row['traffic']}")


@app.command()
def schema(as_json: Json = False) -> None:
    """Print the JSON schema of scenario files, for completion and checks in editors."""
    from dspark_simulator.scenario import json_schema

    print_json(json_schema())


def _summary(scenario: Scenario) -> dict[str, Any]:
    arrivals = scenario.workload.arrivals
    rate = arrivals.mean_rate_per_s
    amount = f"{scenario.workload.clients} clients" if rate is None else f"{rate:.3g} requests/s"
    return {
        "name": scenario.name,
        "model": scenario.model,
        "hardware": scenario.hardware,
        "engine": scenario.server.engine,
        "traffic": f"{arrivals.kind}, {amount}",
        "loads": list(scenario.loads),
        "description": scenario.description,
    }
