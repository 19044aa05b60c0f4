"""``dspark calibrate``: fit a profile to recordings."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.cli.common import Json, print_json, print_text

if TYPE_CHECKING:
    from dspark_tuning.measuring.calibrate.calibration import Calibrated


def calibrate(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Recordings of one deployment by `dspark record`.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The profile to write.")] = Path("profile.json"),
    plain: Annotated[
        list[Path] | None,
        typer.Option(
            "--plain",
            metavar="FILE",
            help="Output of `dspark load --out` against the same server without speculation; repeatable.",
        ),
    ] = None,
    loads: Annotated[
        str | None,
        typer.Option("--loads", help="Numbers of running requests that the profile has to cover, as 1,16,64."),
    ] = None,
    hardware: Annotated[str, typer.Option("--hardware", help="Name of the hardware in the profile.")] = "as recorded",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of a replica.")] = 1,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML report.")] = None,
    sps_table: Annotated[
        Path | None,
        typer.Option("--sps-table", metavar="FILE", help="Write the cost table (SPS table) for an unmodified SGLang."),
    ] = None,
    sts: Annotated[
        Path | None,
        typer.Option("--sts", metavar="FILE", help="Write the confidence temperatures (STS) for an unmodified SGLang."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="SCENARIO", help="A scenario whose step times are compared with the recorded ones."
        ),
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option("--scenario", metavar="FILE", help="Write --base with the recorded step times.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print which loads are still to be recorded.")] = False,
    as_json: Json = False,
) -> None:
    """Fit cost, acceptance and confidence to recordings of a live server; write a profile for simulate and tune."""
    from dspark_simulator.profile import dumps
    from dspark_simulator.scenario import load as read_scenario
    from dspark_tuning.measuring.calibrate import exports
    from dspark_tuning.measuring.calibrate import model_errors as compared
    from dspark_tuning.measuring.calibrate.calibration import calibrate as run
    from dspark_tuning.measuring.calibrate.plain import read as read_plain
    from dspark_tuning.reporting import calibration as pages
    from dspark_tuning.reporting.calibration.steps import model_errors
    from sglang_dspark.errors import InputError
    from sglang_dspark.files import write_atomically

    requested = _loads(loads)
    if scenario is not None and base is None:
        raise InputError("--scenario: needs the scenario to start from; add --base NAME")
    traffic = None if base is None else read_scenario(base)
    calibrated = run(recordings, read_plain(plain) if plain else None, hardware, gpus, requested)
    # Everything is rendered before anything is written.
    files: dict[Path, str] = {out: dumps(calibrated.profile)}
    if sps_table is not None:
        files[sps_table] = exports.sps_table(calibrated.profile)
    if sts is not None:
        files[sts] = exports.sts(calibrated)
    if report is not None:
        files[report] = pages.render(calibrated, _commands(out))
    if traffic is not None and scenario is not None:
        files[scenario] = compared.measured(traffic, calibrated.profile, scenario.stem)
    for path, content in files.items():
        write_atomically(path, content)
    decoded, gamma = calibrated.decoded, calibrated.profile.server.gamma
    against = [] if traffic is None else compared.model_errors(decoded, traffic, gamma)
    if as_json:
        cells = {} if traffic is None else {"base": [row._asdict() | {"error": row.error} for row in against]}
        print_json(_json(calibrated, files, plan) | cells)
    else:
        if traffic is not None:
            print_text(model_errors(against, traffic.name))
        _print(calibrated, files, plan)


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


def _json(calibrated: Calibrated, files: dict[Path, str], plan: bool) -> dict[str, Any]:
    from dspark_tuning.measuring.calibrate.coverage import plan as missing

    fields = {"residuals", "warnings", "sts_temperatures", "provenance"}
    content = calibrated.profile.model_dump(mode="json", include=fields)
    content["coverage"] = calibrated.coverage.grid
    content["files"] = list(files)
    return content | ({"plan": missing(calibrated.coverage)} if plan else {})


def _print(calibrated: Calibrated, files: dict[Path, str], plan: bool) -> None:
    from dspark_tuning.measuring.calibrate.coverage import plan as missing
    from dspark_tuning.reporting.calibration import acceptance, confidence, steps, to_record

    print_text(steps.errors(calibrated))
    if calibrated.acceptance is not None:
        print_text(acceptance.table(calibrated.acceptance))
    if calibrated.head is not None:
        print_text(confidence.table(calibrated.head))
    print_text(f"Captured: {calibrated.cost.capture.why}.")
    print_text(*(f"Warning. {sentence}" for sentence in calibrated.profile.warnings))
    if plan:
        print_text(*to_record(missing(calibrated.coverage)))
    print_text(*(f"wrote {path}" for path in files))
