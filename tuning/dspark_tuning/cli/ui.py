"""``dspark ui``: an interactive page to explore a scenario."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import DEFAULT_SCENARIO, Domain, ScenarioName, read_scenario
from dspark_tuning.cli.deployment_options import DeploymentOptions, with_deployment_options
from dspark_tuning.cli.trace_options import TraceChoice, takes_trace


@with_deployment_options
@takes_trace
def ui(
    options: DeploymentOptions,
    scenario: ScenarioName = None,
    trace: TraceChoice | None = None,
    domain: Domain = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 chooses a free one.")
    ] = 8050,
) -> None:
    """Serve an interactive page: change a scenario's load, lengths, SLOs and drafter, and compare two policies."""
    from sglang_dspark.errors import InputError

    try:
        from dspark_tuning.reporting.ui.app import serve
    except ModuleNotFoundError as error:
        raise InputError(f"dspark ui: {error.name} is not installed; pip install 'sglang-dspark[ui]'") from error
    if not options.given and trace is None and domain is None:
        serve(scenario or DEFAULT_SCENARIO, port)
        return
    from dspark_simulator.scenario_file import to_yaml

    chosen = read_scenario(scenario, trace, domain=domain, options=options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{chosen.name}.yaml"
        file.write_text(to_yaml(chosen), encoding="utf-8")
        serve(str(file), port)
