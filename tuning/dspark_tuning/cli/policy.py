"""``dspark policy``: policy.json files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import Json, print_json, print_text

app = typer.Typer(help="Tuned policies: check, show and compare policy.json files.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A policy.json.", show_default=False)]


@app.command()
def check(file: File, as_json: Json = False) -> None:
    """Check a policy file; an error names the field and the remedy."""
    from sglang_dspark.policy.artifact import load

    artifact = load(file)
    if as_json:
        print_json({"file": file, "valid": True, "family": artifact.policy.family, "gamma": artifact.gamma})
    else:
        came = artifact.provenance
        print(f"{file}: ok: {artifact.policy.family}, gamma {artifact.gamma}, for {came.model} on {came.hardware}")


@app.command()
def show(file: File, as_json: Json = False) -> None:
    """Print a policy, its server flags, provenance and evidence (its comparison with every other arm).

    An arm is a policy with its server flags; the belief is the policy's own estimate of step times; a draft's survival
    is the probability that it and all drafts before it are accepted.
    """
    from dspark_tuning.reporting import artifacts
    from sglang_dspark.policy.artifact import load

    artifact = load(file)
    if as_json:
        print_json(artifact.model_dump(mode="json"))
    else:
        print_text(artifacts.policy(artifact), artifacts.evidence(artifact))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(show_default=False)],
    new: Annotated[Path, typer.Argument(show_default=False)],
    as_json: Json = False,
) -> None:
    """Print the fields in which two policies differ."""
    from dspark_tuning.reporting import artifacts
    from sglang_dspark.policy import artifact

    changes = artifact.diff(artifact.load(old), artifact.load(new))
    if as_json:
        print_json([{"field": field, "old": before, "new": after} for field, before, after in changes])
    elif changes:
        print_text(artifacts.changes(changes))
    else:
        print("no differences")
