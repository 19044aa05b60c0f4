"""The options that say how a trace file is read, shared by all commands that take one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from dspark_simulator.scenario import Scenario
    from dspark_simulator.workloads.traces import TraceRows, TraceSettings


class TraceChoice(NamedTuple):
    """A trace file and the fields of ``TraceSettings`` that options gave."""

    path: Path
    fields: dict[str, Any]

    def settings(self) -> TraceSettings:
        """How the file is read.

        Raises:
            InputError: An option is not valid.
        """
        from dspark_simulator.workloads.traces import TraceSettings
        from sglang_dspark.errors import validated

        content = dict(self.fields)
        if "columns" in content:
            content["columns"] = _columns(content["columns"])
        if content.get("delimiter") in ("tab", "\\t"):
            content["delimiter"] = "\t"
        return validated(TraceSettings, content, "")

    def rows(self) -> TraceRows:
        """The requests of the file."""
        from dspark_simulator.workloads.traces import read_trace

        return read_trace(self.path, self.settings())

    def replayed(self, scenario: Scenario) -> Scenario:
        """The scenario with the arrivals and lengths of the file."""
        return scenario.with_trace(self.path, self.settings())

    def words(self) -> list[str]:
        """The options, for a command that repeats this one."""
        return ["--trace", str(self.path), *option_words(self.fields)]


_FILE = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Requests to replay instead of the scenario's traffic: Azure, BurstGPT, Mooncake, benchmark results, "
        "chats or a table with --columns (docs/traces.md).",
    ),
]
# Name of the option by field of TraceSettings, its type and its help.
_OPTIONS: dict[str, tuple[str, Any, str]] = {
    "format": ("--trace-format", str, "Format of the trace. [default: by content]"),
    "columns": (
        "--columns",
        str,
        "Columns of a trace table of your own, by name or number: arrival=ts,prompt=in_tok,output=out_tok,class=kind.",
    ),
    "class_of": ("--class-of", Path, "YAML rules that give each request of the trace its class."),
    "delimiter": ("--delimiter", str, "Delimiter of the trace table. [default: by content]"),
    "time_unit": ("--time-unit", str, "Unit of the trace's times: s, ms, us or ns. [default: by magnitude]"),
    "rate_per_s": ("--trace-rate", float, "Requests/s of a trace without arrival times, which then are Poisson."),
    "tokenizer": ("--tokenizer", str, "Tokenizer that counts the tokens of a trace of texts: name or folder."),
    "chars_per_token": ("--chars-per-token", float, "Characters of a token, to estimate lengths of texts instead."),
    "block_tokens": ("--block-tokens", int, "Tokens of a block of prefix hashes. [default: the format's]"),
}


def takes_trace(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter ``trace`` of a command, a TraceChoice or None, by the options that make one.

    A ``trace`` without a default becomes an argument.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "trace":
            parameters.append(parameter)
            continue
        required = parameter.default is inspect.Parameter.empty
        argument = Annotated[Path, typer.Argument(metavar="FILE", help="A trace of requests, in any known format.")]
        parameters.append(parameter.replace(annotation=argument if required else _FILE))
        for field, (option, kind, text) in _OPTIONS.items():
            annotation: Any = Annotated[kind | None, typer.Option(option, help=text)]
            parameters.append(inspect.Parameter(field, parameter.kind, default=None, annotation=annotation))

    @wraps(command)
    def called(**values: Any) -> None:
        from sglang_dspark.errors import InputError

        fields = {field: value for field in _OPTIONS if (value := values.pop(field)) is not None}
        path = values.pop("trace")
        if path is None and fields:
            options = ", ".join(_OPTIONS[field][0] for field in fields)
            raise InputError(f"{options}: given without --trace; give the file")
        command(trace=None if path is None else TraceChoice(path, fields), **values)

    called.__signature__ = signature.replace(parameters=_ordered(parameters))  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del called.__wrapped__
    return called


def option_words(fields: dict[str, Any]) -> list[str]:
    """Command-line words that set fields of ``TraceSettings``."""
    words: list[str] = []
    for field, value in fields.items():
        text = ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        words += [_OPTIONS[field][0], text]
    return words


def named(message: str) -> str:
    """A library's message with options in place of fields."""
    for field, (option, _, _) in _OPTIONS.items():
        if field in ("format", "columns", "delimiter", "tokenizer"):
            message = re.sub(rf"(?<![\w.-]){field}:", f"{option}:", message)
        else:
            message = re.sub(rf"(?<![\w.-]){field}\b", option, message)
    return re.sub(r"name a tokenizer", "give --tokenizer", message.replace("its columns, as", "its --columns, as"))


def _ordered(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """The parameters with those that have no default first."""
    return sorted(parameters, key=lambda parameter: parameter.default is not inspect.Parameter.empty)


def _columns(text: str) -> dict[str, str]:
    from sglang_dspark.errors import InputError

    columns = {}
    for part in text.split(","):
        role, equals, column = part.partition("=")
        if not equals or not column.strip():
            raise InputError(f"--columns: {part!r} is not valid; write arrival=ts,prompt=in_tok,output=out_tok")
        columns[role.strip()] = column.strip()
    return columns
