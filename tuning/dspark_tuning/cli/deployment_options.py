"""Options that describe a deployment by its model, GPUs and traffic, shared by several commands."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

if TYPE_CHECKING:
    from dspark_simulator.model_on_gpus import ModelOnGpus
    from dspark_simulator.new_scenario import Traffic
    from dspark_tuning.cli.trace_options import TraceChoice

_PANEL = "A deployment by its model, instead of a scenario"
# Options that are meaningless without a model.
_NEEDS = ("gpu", "tp", "draft", "kv_cache_dtype", "mem_fraction", "isl", "osl", "ttft_s", "tpot_s")


def _option(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_PANEL, show_default=False, **settings)


class DeploymentOptions(NamedTuple):
    """Values of the options; None where an option is not given."""

    model: Annotated[
        str | None, _option("--model", help="A model known by name (docs/planning.md) or the folder of a checkpoint.")
    ] = None
    config: Annotated[
        Path | None, _option("--config", help="The model's config.json; --model is then the path that SGLang loads.")
    ] = None
    gpu: Annotated[str | None, _option("--gpu", help="The kind of GPU: H100, H200, B200, MI350X, ...")] = None
    tp: Annotated[int | None, _option("--tp", min=1, help="Tensor-parallel GPUs of a replica. \\[default: 1]")] = None
    draft: Annotated[
        Path | None,
        _option("--draft", help="The DSpark draft's config.json or folder. \\[default: the published one]"),
    ] = None
    kv_cache_dtype: Annotated[
        str | None, _option("--kv-cache-dtype", help="bf16 or fp8. \\[default: the checkpoint's]")
    ] = None
    mem_fraction: Annotated[
        float | None, _option("--mem-fraction", help="Share of a GPU's memory for weights and KV. \\[default: 0.85]")
    ] = None
    isl: Annotated[int | None, _option("--isl", min=1, help="Tokens of a prompt.")] = None
    osl: Annotated[int | None, _option("--osl", min=1, help="Tokens of an output.")] = None
    ttft_s: Annotated[float | None, _option("--ttft", help="SLO of the time to the first token, in seconds.")] = None
    tpot_s: Annotated[float | None, _option("--tpot", help="SLO of the time per output token, in seconds.")] = None
    rate: Annotated[
        float | None,
        _option("--rate", metavar="REQUESTS_PER_S", help="Requests per second. \\[default: a closed loop]"),
    ] = None

    @property
    def given(self) -> bool:
        """Whether they describe a deployment.

        Raises:
            InputError: Options without the model or the GPU that they need.
        """
        from sglang_dspark.errors import InputError

        if self.rate is not None and not 0 < self.rate < math.inf:
            raise InputError(f"--rate: {self.rate} is not valid; give requests per second above 0")
        if self.model is None and self.config is None:
            stray = next((name for name in _NEEDS if getattr(self, name) is not None), None)
            if stray is not None:
                raise InputError(f"{stray}: {getattr(self, stray)} is given without a model; add --model or --config")
            return False
        if self.gpu is None:
            raise InputError("gpu: missing; give the kind of GPU that serves the model")
        return True

    def words(self) -> list[str]:
        """The given options as words of a command line."""
        given = self._given(*self._fields)
        # An option lacks the unit of its field.
        options = {name: f"--{name.removesuffix('_s').replace('_', '-')}" for name in given}
        return [word for name, value in given.items() for word in (options[name], str(value))]

    def deployed(self) -> ModelOnGpus:
        """The model on its GPUs.

        Raises:
            InputError: An invalid value.
        """
        from dspark_simulator.model_on_gpus import ModelOnGpus
        from sglang_dspark.errors import validated

        names = ("model", "config", "gpu", "tp", "draft", "kv_cache_dtype", "mem_fraction")
        return validated(ModelOnGpus, self._given(*names), "")

    def traffic(self, domain: str | None, trace: TraceChoice | None) -> Traffic:
        """The requests.

        Args:
            domain: Acceptance domain of the texts.
            trace: Request log to replay, and how to read it.

        Raises:
            InputError: An invalid value.
        """
        from dspark_simulator.new_scenario import Traffic
        from sglang_dspark.errors import validated

        names = ("isl", "osl", "rate", "ttft_s", "tpot_s")
        others: dict[str, Any] = {"domain": domain}
        if trace is not None:
            others |= {"trace": trace.path, "reading": trace.settings()}
        stated = {name: value for name, value in others.items() if value is not None}
        return validated(Traffic, self._given(*names) | stated, "")

    def _given(self, *names: str) -> dict[str, Any]:
        """Values of the options that are given."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def with_deployment_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :class:`DeploymentOptions` in place of its parameter ``options``."""
    own = inspect.signature(command, eval_str=True)
    hints = get_type_hints(DeploymentOptions, include_extras=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[name])
        for name in DeploymentOptions._fields
        if name not in own.parameters
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = {name: values.get(name) for name in DeploymentOptions._fields}
        rest = {name: value for name, value in values.items() if name in own.parameters}
        command(**rest, options=DeploymentOptions(**options))

    kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in own.parameters.items() if n != "options"]
    run.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*kept, *added]}
    del run.__wrapped__
    return run
