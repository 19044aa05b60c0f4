"""``dspark calibrate``: from a recording to a profile."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.cli.common import Json, console, print_json

if TYPE_CHECKING:
    from dspark_tuning.measuring.calibrate.calibration import Calibrated


def calibrate(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="What `dspark record` wrote, of one deployment.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The profile to write.")] = Path("profile.json"),
    plain: Annotated[
        list[Path] | None,
        typer.Option(
            "--plain",
            metavar="FILE",
            help="What `dspark load --out` wrote against the same server without speculation; repeatable.",
        ),
    ] = None,
    loads: Annotated[
        str | None, typer.Option("--loads", help="Running requests that will be asked for, as 1,16,64.")
    ] = None,
    hardware: Annotated[str, typer.Option("--hardware", help="What the profile calls the hardware.")] = "as recorded",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of a replica.")] = 1,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML report.")] = None,
    sps_table: Annotated[
        Path | None, typer.Option("--sps-table", metavar="FILE", help="Write the cost table that a stock SGLang reads.")
    ] = None,
    sts: Annotated[
        Path | None, typer.Option("--sts", metavar="FILE", help="Write the temperatures that a stock SGLang reads.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="SCENARIO", help="A scenario whose own step times are compared with these."),
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option("--scenario", metavar="FILE", help="Write --base with the recorded step times.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print which loads to record for what is missing.")] = False,
    as_json: Json = False,
) -> None:
    """Fit cost, acceptance and confidence to what a live server recorded; write a profile for simulate and tune."""
    from dspark_simulator.profile import dumps
    from dspark_simulator.scenario import load as read_scenario
    from dspark_tuning.measuring.calibrate import exports
    from dspark_tuning.measuring.calibrate import model_errors as compared
    from dspark_tuning.measuring.calibrate.calibration import calibrate as run
    from dspark_tuning.measuring.calibrate.plain import read as read_plain
    from dspark_tuning.reporting import calibration as page
    from dspark_tuning.reporting.calibration import tables
    from sglang_dspark.errors import InputError
    from sglang_dspark.files import write_atomically

    asked = _loads(loads)
    if scenario is not None and base is None:
        raise InputError("--scenario: needs the scenario that it is made of; add --base NAME")
    traffic = None if base is None else read_scenario(base)
    found = run(recordings, read_plain(plain) if plain else None, hardware, gpus, asked)
    # All is made before anything is written.
    files: dict[Path, str] = {out: dumps(found.profile)}
    if sps_table is not None:
        files[sps_table] = exports.sps_table(found.profile)
    if sts is not None:
        files[sts] = exports.sts(found)
    if report is not None:
        files[report] = page.render(found, _commands(out))
    if traffic is not None and scenario is not None:
        files[scenario] = compared.measured(traffic, found.profile, scenario.stem)
    for path, content in files.items():
        write_atomically(path, content)
    against = [] if traffic is None else compared.model_errors(found.decoded, traffic, found.profile.server.gamma)
    if as_json:
        cells = {} if traffic is None else {"base": [row._asdict() | {"error": row.error} for row in against]}
        print_json(_json(found, files, plan) | cells)
    else:
        if traffic is not None:
            console().print(tables.beside(against, traffic.name))
        _print(found, files, plan)


def _loads(text: str | None) -> tuple[int, ...]:
    from sglang_dspark.errors import InputError
    from sglang_dspark.policy.belief import MAX_REQUESTS

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= MAX_REQUESTS for part in parts):
        raise InputError(
            f"--loads: {text!r} is not valid; give numbers of requests from 1 to {MAX_REQUESTS}, as 1,16,64"
        )
    return tuple(int(part) for part in parts)


def _commands(out: Path) -> list[str]:
    return [shlex.join(["dspark", *sys.argv[1:]]), f"dspark tune SCENARIO.yaml --profile {shlex.quote(str(out))}"]


def _json(found: Calibrated, files: dict[Path, str], plan: bool) -> dict[str, Any]:
    from dspark_tuning.measuring.calibrate.coverage import plan as missing

    content = found.profile.model_dump(mode="json", include={"residuals", "warnings", "sts_temperatures", "provenance"})
    content["coverage"] = found.coverage.grid
    content["files"] = list(files)
    return content | ({"plan": missing(found.coverage)} if plan else {})


def _print(found: Calibrated, files: dict[Path, str], plan: bool) -> None:
    from dspark_tuning.measuring.calibrate.coverage import plan as missing
    from dspark_tuning.reporting.calibration import tables

    out = console()
    out.print(tables.errors(found.cost.errors))
    if found.acceptance is not None:
        out.print(tables.acceptance(found.acceptance))
    if found.head is not None:
        out.print(tables.confidence(found.head))
    out.print(f"Captured: {found.cost.capture.why}.", soft_wrap=True)
    for sentence in found.profile.warnings:
        out.print(f"Warning. {sentence}", soft_wrap=True)
    if plan:
        for line in tables.plan(missing(found.coverage)):
            out.print(line, soft_wrap=True)
    for path in files:
        out.print(f"wrote {path}", soft_wrap=True)
