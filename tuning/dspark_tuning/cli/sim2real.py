"""``dspark sim2real``: compare the simulator with a real server on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import Json, check_writable, print_json, print_text


def sim2real(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Recordings, profile, policy, tables and logs.")
    ] = Path("out/sim2real"),
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of every cell.")] = 3,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Policies that the search tries.")] = 96,
    as_json: Json = False,
) -> None:
    """Calibrate on a short recording of the CPU server with the demo pair; predict, tune, and measure the result."""
    from sglang_dspark.errors import InputError

    check_writable(out)
    try:
        from dspark_tuning.measuring.sim2real import experiment
        from dspark_tuning.reporting import sim2real
    except ImportError as error:
        raise InputError(
            f"sglang: not installed ({error}); `make serve-demo` installs what a CPU needs, see Makefile"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    results = experiment.run(out, repeats, trials, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print_json(
            {
                "cells": experiment.frame(results.cells).to_dict("records"),
                "loop": experiment.frame(results.loop).to_dict("records"),
                "advice": results.advice,
                "warnings": results.calibrated.profile.warnings,
            }
        )
        return
    print_text(
        sim2real.cells("Cells that the calibration did not use", results.cells),
        *sim2real.summary(results.cells),
        sim2real.cells("The loop: tuned on the calibrated profile", results.loop),
        sim2real.LENGTHS,
        *sim2real.gains(results.loop, experiment.TUNED),
        results.advice,
    )
