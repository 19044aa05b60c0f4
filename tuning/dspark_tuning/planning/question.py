"""The question of a plan as a YAML file: traffic, service levels, hardware and prices."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator import scenario as scenarios
from dspark_simulator.documented_schema import DocumentedSchema
from dspark_simulator.model_on_gpus import ModelOnGpus
from dspark_simulator.new_scenario import Traffic, new_scenario
from dspark_simulator.router import RouterName
from dspark_simulator.workloads import Workload
from sglang_dspark.errors import InputError, validated
from sglang_dspark.parsing import parse_yaml

PACKAGED = resources.files("dspark_tuning.planning") / "plans"
DEFAULT = "v4flash-chat"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_ALIKE, MOST_AT_ONCE = 1024, 64
SOURCES = ("scenario", "profile", "model", "config")


class Choice(ModelOnGpus):
    """A candidate deployment with step times from one of three sources: scenario, profile, or a model on GPUs.

    Attributes:
        name: Name in tables; by default the source and the GPU.
        scenario: A packaged scenario or a scenario file; its traffic is not used.
        profile: A ``profile.json`` of ``dspark calibrate``.
        price_per_gpu_hour: Price of a GPU in any currency; 1 gives costs in GPU hours.
    """

    name: str | None = None
    scenario: str | None = None
    profile: Path | None = None
    price_per_gpu_hour: Positive = 1.0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1 and given != ["model", "config"]:
            raise ValueError(f"give one of {', '.join(SOURCES)}, not {' and '.join(given) or 'none'}")
        if given[0] in ("model", "config") and self.gpu is None:
            raise ValueError(f"a roofline of {given[0]} needs its gpu; add one")
        return self


class Question(BaseModel):
    """Traffic, service levels and candidate deployments.

    Attributes:
        name: Name in reports.
        description: Sources and assumptions, for readers.
        workload: An open loop; its rate is the traffic of all replicas together.
        attainment: Required SLO attainment of each class.
        confidence: Confidence of the one-sided bound of the attainment over replications.
        router: Routing of requests to replicas.
        choices: Candidate deployments.
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
    def priced(self) -> bool:
        """Whether costs are in a currency, not in GPU hours."""
        return any("price_per_gpu_hour" in choice.model_fields_set for choice in self.choices)

    @property
    def most_replicas(self) -> int:
        """Upper limit of replicas: with a random router one represents all, otherwise all are simulated together."""
        return MOST_ALIKE if self.router == "random" else MOST_AT_ONCE

    @property
    def rate_per_s(self) -> float:
        """Arrival rate of all replicas together."""
        return self.workload.rate_per_s


def json_schema() -> dict[str, Any]:
    """The published JSON schema of a plan's file."""
    return Question.model_json_schema(schema_generator=DocumentedSchema)


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


def load(source: str, rate_per_s: float | None = None) -> Question:
    """Read a packaged plan or scenario by name, or a YAML file of either by path; its paths are relative to its folder.

    A scenario is a plan of one choice: its deployment under its traffic.

    Args:
        rate_per_s: Requests per second instead of the file's own.

    Raises:
        InputError: No such plan, not YAML, an invalid field, or a closed loop without a rate.
    """
    if source in scenarios.names():
        return _of_scenario(source, rate_per_s)
    content = _content(text(source), source)
    if "choices" not in content and content.keys() & {"cost", "base", "profile"}:
        return _of_scenario(source, rate_per_s)
    base = Path.cwd() if source in names() else Path(source).parent
    question = validated(Question, content, source, {"base": base})
    placed = question.model_copy(update={"choices": tuple(_placed(choice, base) for choice in question.choices)})
    return placed if rate_per_s is None else placed.at_rate(rate_per_s)


def of_model(deployed: ModelOnGpus, traffic: Traffic) -> Question:
    """The plan of one model on GPUs under a traffic.

    Raises:
        InputError: As :func:`dspark_simulator.new_scenario.new_scenario`, or a closed loop.
    """
    scenario = new_scenario(deployed, traffic)
    return _question(scenario.name, scenario.workload, deployed.model_dump(exclude_unset=True))


def _of_scenario(source: str, rate_per_s: float | None) -> Question:
    scenario = scenarios.load(source)
    workload = scenario.workload if rate_per_s is None else scenario.workload.with_rate(rate_per_s)
    return _question(scenario.name, workload, {"scenario": source})


def _question(name: str, workload: Workload, choice: dict[str, Any]) -> Question:
    content = {"name": name, "workload": workload.model_dump(), "choices": [{"name": name, **choice}]}
    return validated(Question, content, name)


def _content(text: str, source: str) -> dict[str, Any]:
    content = parse_yaml(text, source)
    if not isinstance(content, dict):
        raise InputError(f"{source}: holds no fields; start from a copy of the packaged plan {DEFAULT}")
    return content


def _placed(choice: Choice, base: Path) -> Choice:
    """The choice with paths relative to the working directory."""
    update: dict[str, Any] = {
        field: base / path
        for field in ("profile", "config", "draft")
        if isinstance(path := getattr(choice, field), Path)
    }
    for field, inside in (("scenario", ""), ("model", "config.json")):
        path = getattr(choice, field)
        if path is not None and (base / path / inside).is_file():
            update[field] = str(base / path)
    return choice.model_copy(update=update)
