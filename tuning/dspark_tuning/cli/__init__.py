"""The ``dspark`` command.

No module of this package imports numba, pandas, pydantic or optuna before a command runs, so that help and usage errors
appear at once. This package alone knows the names of command-line options: library errors name fields.
"""

from __future__ import annotations

import re
import sys
from typing import Any

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
    trace,
    trace_options,
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
app.add_typer(trace.app, name="trace")
app.add_typer(policy.app, name="policy")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(kernels.app, name="kernels")


def main(arguments: list[str] | None = None) -> None:
    """Run a command line, by default ``sys.argv``, and exit.

    Exit codes: 0; 2 for input that a person can mend, with one line on stderr; 130 when interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, prog_name="dspark")
    except ValueError as error:
        from sglang_dspark.errors import InputError, end

        if not isinstance(error, InputError):
            raise
        end("dspark", InputError(*(_naming_the_option(line, arguments) for line in error.lines)))


def _naming_the_option(message: str, arguments: list[str]) -> str:
    """Replace the field that starts a library's error by the option of the running command that sets it.

    ``arm: 'best' is not known`` becomes ``--arm: 'best' is not known``.
    """
    command: Any = typer.main.get_command(app)
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    field = re.match(r"[\w-]+(?=[: ])", message)
    options = {parameter.name: parameter.opts[0] for parameter in command.params}
    if "trace" in options:
        message = trace_options.named(message)
        field = re.match(r"[\w-]+(?=[: ])", message)
    option = options.get(field[0].replace("-", "_"), "") if field else ""
    return option + message[field.end() :] if field and option.startswith("--") else message
