"""The question of a plan as a YAML file: traffic, service levels, hardware and prices."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator.router import RouterName
from dspark_simulator.workloads import Workload
from sglang_dspark.errors import InputError, validated
from sglang_dspark.parsing import parse_yaml
from sglang_dspark.shapes.config import KvDtype
from sglang_dspark.shapes.gpus import GpuName
from sglang_dspark.shapes.model import DraftShape

PACKAGED = resources.files("dspark_tuning.planning") / "plans"
DEFAULT = "v4flash-chat"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_ALIKE, MOST_AT_ONCE = 1024, 64
SOURCES = ("scenario", "profile", "model", "config")


class Choice(BaseModel):
    """A candidate deployment with step times from exactly one of four sources: scenario, profile, model or config.

    Attributes:
        name: Name in tables; by default the source and the GPU.
        scenario: A packaged scenario or a scenario file; its traffic is not used.
        profile: A ``profile.json`` of ``dspark calibrate``.
        model: Name of a model with a known shape, for a roofline on ``tp`` GPUs of the kind ``gpu``.
        config: The ``config.json`` of a model, for a roofline likewise.
        kv_cache_dtype: Data type of the KV cache of a roofline (SGLang's ``--kv-cache-dtype``); ``auto`` is that of
            the checkpoint.
        draft: Shape of the DSpark draft; by default that of the known model, else DeepSpec's draft of Qwen3.
        mem_fraction: Share of the memory for weights and KV (SGLang's ``--mem-fraction-static``) of a roofline.
        price_per_gpu_hour: Price of a GPU in any currency.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str | None = None
    scenario: str | None = None
    profile: Path | None = None
    model: str | None = None
    config: Path | None = None
    gpu: GpuName | None = None
    tp: Annotated[int, Field(ge=1, le=64)] = 1
    kv_cache_dtype: KvDtype = "auto"
    draft: DraftShape | None = None
    mem_fraction: Annotated[float, Field(gt=0, le=1)] = 0.85
    price_per_gpu_hour: Positive

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(SOURCES)}, not {' and '.join(given) or 'none'}")
        if given[0] in ("model", "config") and self.gpu is None:
            raise ValueError(f"a roofline of {given[0]} needs its gpu; add one")
        return self


class Question(BaseModel):
    """Traffic, service levels and candidate deployments.

    Attributes:
        workload: An open loop; its rate is the traffic of all replicas together.
        attainment: Required SLO attainment of each class.
        confidence: Confidence of the one-sided bound of the attainment over replications.
        router: Routing of requests to replicas.
        what_if: Changes to evaluate, as ``rate=2x``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    description: str = ""
    workload: Workload
    attainment: Annotated[float, Field(gt=0, lt=1)] = 0.95
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    router: RouterName = "random"
    choices: tuple[Choice, ...] = Field(min_length=1)
    what_if: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _open(self) -> Self:
        if self.workload.arrivals.mean_rate_per_s is None:
            raise ValueError("workload.arrivals is a closed loop, which has no rate to plan for; give poisson arrivals")
        return self

    def at_rate(self, rate_per_s: float) -> Question:
        """The same question for other traffic.

        Raises:
            InputError: The rate is not positive.
        """
        return self.model_copy(update={"workload": self.workload.with_rate(rate_per_s)})

    @property
    def most_replicas(self) -> int:
        """Upper limit of replicas: with a random router one represents all, otherwise all are simulated together."""
        return MOST_ALIKE if self.router == "random" else MOST_AT_ONCE

    @property
    def rate_per_s(self) -> float:
        """Arrival rate of all replicas together."""
        return self.workload.rate_per_s


def names() -> list[str]:
    """Names of the packaged plans."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def text(source: str) -> str:
    """Text of a packaged plan by name, or of a file by path.

    Raises:
        InputError: No such plan or file.
    """
    if source in names():
        return (PACKAGED / f"{source}.yaml").read_text(encoding="utf-8")
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: no such plan or file ({error}); packaged are {', '.join(names())}") from error


def load(source: str) -> Question:
    """Read a packaged plan by name, or a YAML file by path; paths in it are relative to its folder.

    Raises:
        InputError: No such plan, not YAML, or an invalid field.
    """
    return _parse(text(source), source, Path.cwd() if source in names() else Path(source).parent)


def _parse(text: str, source: str, base: Path) -> Question:
    content = parse_yaml(text, source)
    if not isinstance(content, dict):
        raise InputError(f"{source}: holds no fields; start from a copy of the packaged plan {DEFAULT}")
    question = validated(Question, content, source, {"base": base})
    return question.model_copy(update={"choices": tuple(_placed(choice, base) for choice in question.choices)})


def _placed(choice: Choice, base: Path) -> Choice:
    """The choice with paths relative to the working directory."""
    update: dict[str, Any] = {
        field: base / path for field in ("profile", "config") if (path := getattr(choice, field)) is not None
    }
    if choice.scenario is not None and (base / choice.scenario).is_file():
        update["scenario"] = str(base / choice.scenario)
    return choice.model_copy(update=update)
