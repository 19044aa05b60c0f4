"""The ``dspark`` command.

Nothing here or in ``commands`` imports numba, pandas, pydantic or optuna before a command runs: help and usage errors
answer at once.
"""

from __future__ import annotations

import typer

from dspark_tuning.cli import (
    bench,
    calibrate,
    data,
    eval,
    kernels,
    load,
    plan,
    policy,
    record,
    scenario,
    serve_check,
    sim2real,
    simulate,
    train,
    tune,
    ui,
    validate,
)

app = typer.Typer(
    help="Load-adaptive DSpark verification for SGLang: simulate a server under load, tune its policy, inspect both.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(scenario.app, name="scenario")
app.command("simulate")(simulate.simulate)
app.command("tune")(tune.tune)
app.command("plan")(plan.plan)
app.command("ui")(ui.ui)
app.command("record")(record.record)
app.command("load")(load.load)
app.command("calibrate")(calibrate.calibrate)
app.command("validate")(validate.validate)
app.command("sim2real")(sim2real.sim2real)
app.command("serve-check", context_settings={"ignore_unknown_options": True})(serve_check.serve_check)
app.command("train")(train.train)
app.command("eval")(eval.evaluate)
app.add_typer(policy.app, name="policy")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(kernels.app, name="kernels")


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line, ``sys.argv`` by default, and exits.

    Exit codes: 0; 2 for input that a person can mend, said in one line on stderr; 130 when interrupted.
    """
    try:
        app(arguments, prog_name="dspark")
    except ValueError as error:
        from sglang_dspark.errors import InputError, end

        if not isinstance(error, InputError):
            raise
        end("dspark", error)
