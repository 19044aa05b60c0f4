"""``dspark policy``: artifacts of tuned policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import Json, console, print_json

app = typer.Typer(help="Tuned policies: check, show and compare policy.json files.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A policy.json.", show_default=False)]


@app.command()
def check(file: File, as_json: Json = False) -> None:
    """Say whether a policy is valid, and what is wrong with it if it is not."""
    from sglang_dspark.policy.artifact import load

    artifact = load(file)
    if as_json:
        print_json({"file": file, "valid": True, "family": artifact.policy.family, "gamma": artifact.gamma})
    else:
        came = artifact.provenance
        print(f"{file}: ok: {artifact.policy.family}, gamma {artifact.gamma}, for {came.model} on {came.hardware}")


@app.command()
def show(file: File, as_json: Json = False) -> None:
    """Print a policy, the flags it needs, where it comes from and its evidence."""
    from dspark_tuning.reporting import tables
    from sglang_dspark.policy.artifact import load

    artifact = load(file)
    if as_json:
        print_json(artifact.model_dump(mode="json"))
    else:
        out = console()
        out.print(tables.policy(artifact))
        out.print(tables.evidence(artifact))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(show_default=False)],
    new: Annotated[Path, typer.Argument(show_default=False)],
    as_json: Json = False,
) -> None:
    """Print the fields in which two policies differ."""
    from dspark_tuning.reporting import tables
    from sglang_dspark.policy import artifact

    changes = artifact.diff(artifact.load(old), artifact.load(new))
    if as_json:
        print_json([{"field": field, "old": before, "new": after} for field, before, after in changes])
    elif changes:
        console().print(tables.changes(changes))
    else:
        print("no differences")
