"""``dspark sim2real``: the simulator against the real server on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import Json, check_writable, console, print_json


def sim2real(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Recordings, profile, policy, tables and logs.")
    ] = Path("out/sim2real"),
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of every cell.")] = 3,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Candidates of the tuner.")] = 96,
    as_json: Json = False,
) -> None:
    """Calibrate on a short record of the CPU server with the demo pair; predict, tune, and measure what comes of it."""
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
    found = experiment.run(out, repeats, trials, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print_json(
            {
                "cells": experiment.frame(found.cells).to_dict("records"),
                "loop": experiment.frame(found.loop).to_dict("records"),
                "advice": found.advice,
                "warnings": found.calibrated.profile.warnings,
            }
        )
        return
    printed = console()
    printed.print(sim2real.rows("cells that the calibration did not see", found.cells))
    for line in sim2real.summary(found.cells):
        printed.print(line, soft_wrap=True)
    printed.print(sim2real.rows("the loop: tuned on the calibrated profile", found.loop))
    for line in sim2real.gains(found.loop, experiment.TUNED):
        printed.print(line, soft_wrap=True)
    printed.print(found.advice, soft_wrap=True)
