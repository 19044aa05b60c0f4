"""``dspark ui``: an interactive page to explore a scenario."""

from __future__ import annotations

from typing import Annotated

import typer

from dspark_tuning.cli.common import DEFAULT_SCENARIO, ScenarioName


def ui(
    scenario: ScenarioName = DEFAULT_SCENARIO,
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
    serve(scenario, port)
