"""The plugin's flags, and the variable that carries them to the scheduler processes."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sglang_dspark.errors import InputError, from_validation

VARIABLE: Final = "DSPARK_SERVING"

ModeName = Literal["on", "shadow", "off"]
KernelsName = Literal["auto", "ours", "upstream"]


class Settings(BaseModel):
    """The plugin's flags.

    Attributes:
        policy: Path of a ``policy.json``; watched for changes while the server runs.
        mode: ``on`` applies the policy, ``shadow`` decides and applies upstream's decision, ``off`` only loads it.
        fallback_margin: How far observed acceptance or step time may leave what the artifact was tuned for before the
            plugin hands over to upstream; 0.5 is half as much again, either way. 0 never hands over.
        class_keys: File of keys, one a line, of the callers who may use classes with a weight above 1; all if absent.
        record: Folder for Parquet records of every decode step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    policy: str
    mode: ModeName = "on"
    fallback_margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    class_keys: str | None = None
    record: str | None = None

    @field_validator("mode", mode="before")
    @classmethod
    def _on_off(cls, mode: object) -> object:
        """YAML reads a bare on or off as a boolean, which --config passes on as true or false."""
        return {"true": "on", "false": "off"}.get(str(mode).lower(), mode)


class Flag(NamedTuple):
    """A command line flag of the plugin and the keyword of ``sglang.Engine`` with the same meaning."""

    option: str
    field: str
    metavar: str
    help: str

    @property
    def keyword(self) -> str:
        return self.option.removeprefix("--").replace("-", "_")


FLAGS: Final = (
    Flag(
        "--speculative-dspark-policy",
        "policy",
        "FILE",
        "DSPARK only. A policy.json of `dspark tune`: how many drafts a step verifies, given the load. "
        "A changed file takes effect between steps.",
    ),
    Flag(
        "--speculative-dspark-policy-mode",
        "mode",
        "on|shadow|off",
        "Whether the policy decides (on, default), decides beside SGLang's own planner, whose decision is applied "
        "(shadow), or waits (off).",
    ),
    Flag(
        "--speculative-dspark-fallback-margin",
        "fallback_margin",
        "SHARE",
        "How far acceptance or step time may leave what the policy was tuned for before SGLang's own planner takes "
        "over (default 0.5: half as much again, either way; 0: never).",
    ),
    Flag(
        "--speculative-dspark-class-keys",
        "class_keys",
        "FILE",
        "Keys, one a line: requests of classes with a weight above 1 must carry one of them in custom_params "
        "as `slo_key` (default: all requests may use all classes).",
    ),
    Flag(
        "--speculative-dspark-kernels",
        "kernels",
        "auto|ours|upstream",
        "Whose kernels draft, rate and accept: SGLang's (upstream); ours where a bench has shown them faster on this "
        "GPU (auto, default with a policy); ours wherever they cover the draft (ours).",
    ),
    Flag(
        "--speculative-dspark-record",
        "record",
        "FOLDER",
        "Writes every decode step to Parquet files in this folder.",
    ),
)


def put(field: str, value: object) -> None:
    """Add one setting to the variable that child processes inherit."""
    os.environ[VARIABLE] = json.dumps({**_raw(), field: value}, sort_keys=True)


def clear() -> None:
    """Remove all settings, for a process that starts several engines."""
    os.environ.pop(VARIABLE, None)


def current() -> Settings | None:
    """The settings of this process or its parent; None where there are none.

    Raises:
        InputError: A setting without a policy, or a value that cannot be used.
    """
    raw = {field: value for field, value in _raw().items() if field != "kernels"}
    if not raw:
        return None
    if "policy" not in raw:
        option = next(flag.option for flag in FLAGS if flag.field in raw)
        raise InputError(f"{option}: needs --speculative-dspark-policy; give a policy.json as well")
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        loc = error.errors()[0]["loc"]
        option = next((flag.option for flag in FLAGS if loc and flag.field == loc[0]), VARIABLE)
        raise from_validation(error, option, raw) from error
    return settings.model_copy(update={"policy": str(Path(settings.policy).absolute())})


def kernels() -> KernelsName | None:
    """The choice of kernels; ``auto`` with a policy alone, None without settings.

    Raises:
        InputError: None of the names.
    """
    raw = _raw()
    if not raw:
        return None
    value = raw.get("kernels", "auto")
    for name in get_args(KernelsName):
        if value == name:
            return cast(KernelsName, name)
    raise InputError(f"--speculative-dspark-kernels: {value!r} is not valid; use {', '.join(get_args(KernelsName))}")


def _raw() -> dict[str, Any]:
    text = os.environ.get(VARIABLE, "")
    if not text:
        return {}
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{VARIABLE}: not JSON ({error}); it is set by the server's own flags") from error
    if not isinstance(raw, dict):
        raise InputError(f"{VARIABLE}: {text[:60]!r} is not an object; it is set by the server's own flags")
    return raw


def add_flags(result: None, parser: argparse.ArgumentParser) -> None:
    """After ``ServerArgs.add_cli_args``: add the plugin's flags, for which ``ServerArgs`` has no fields."""
    for flag in FLAGS:
        parser.add_argument(flag.option, metavar=flag.metavar, help=flag.help, action=_Remember, dest=flag.field)


class _Remember(argparse.Action):
    """Puts a value into the environment: child processes inherit ``ServerArgs`` and the environment alone."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        put(self.dest, float(values) if self.dest == "fallback_margin" and _is_number(values) else values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
