"""Scenarios: a deployment and its traffic, written as a YAML file."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from dspark_simulator.acceptance_model import AcceptanceModel, packaged
from dspark_simulator.acceptance_model import load as load_acceptance
from dspark_simulator.costs import Cost, CostModel, CostRecord, live, numeric
from dspark_simulator.deployment import Live, Memory, Truth
from dspark_simulator.documented_schema import DocumentedSchema
from dspark_simulator.profile import Profile
from dspark_simulator.profile import load as load_profile
from dspark_simulator.router import RouterName
from dspark_simulator.server import Server
from dspark_simulator.workloads import Trace, Workload
from dspark_simulator.workloads.traces import AS_READ, TraceSettings
from dspark_simulator.wrong_kind import check_kind
from sglang_dspark.errors import InputError, did_you_mean, from_validation, validated
from sglang_dspark.parsing import parse_yaml
from sglang_dspark.policy import CostBelief
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.shapes.config import KvDtype
from sglang_dspark.shapes.known import known
from sglang_dspark.shapes.kv_pool import flag_costs
from sglang_dspark.shapes.model import ModelShape

PACKAGED = resources.files("dspark_simulator") / "scenarios"
DEFAULT = "b300-v4flash"

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Run(BaseModel):
    """Length of a simulation.

    Attributes:
        requests: Requests of all replicas together, warm-up included.
        warmup_requests: The first of the requests, which load the server and are not measured.
        drain: Send nothing after the measured requests and end the window with the last of them, like benchmark
            clients; otherwise later requests keep up the load.
        max_s: Simulated seconds after which a run stops.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    requests: Annotated[int, Field(ge=1)] = 1000
    warmup_requests: Annotated[int, Field(ge=0)] = 100
    drain: bool = False
    max_s: Factor = 36000.0

    @model_validator(mode="after")
    def _fits(self) -> Run:
        if self.warmup_requests >= self.requests:
            raise ValueError(f"warmup_requests {self.warmup_requests} leaves no request to measure; raise requests")
        return self


class Checkpoints(NamedTuple):
    """Paths or Hugging Face ids of a model and of its DSpark draft; None where unknown."""

    model: str | None
    draft: str | None

    @property
    def bundled(self) -> bool:
        """Whether the model's checkpoint holds the draft, which SGLang then finds itself."""
        return self.draft is not None and self.draft == self.model


class Scenario(BaseModel):
    """A deployment and its traffic.

    Attributes:
        name: Name in artifacts, reports and files.
        description: Sources and assumptions, for readers.
        model: Name in artifacts and reports: the Hugging Face id, or a name of one's own.
        model_path: Path or Hugging Face id that SGLang loads (``--model-path``); if None, that of a model known by
            name, or ``model`` where it is an id.
        draft_path: Path or Hugging Face id of the DSpark draft (``--speculative-draft-model-path``), or the model's own
            where its checkpoint holds the draft; if None, that of the draft published for the model, if there is one.
        kv_cache_dtype: Data type of the KV cache (SGLang's ``--kv-cache-dtype``), as ``memory`` and ``cost`` count it;
            ``auto`` is that of the checkpoint.
        mem_fraction_static: Share of the GPUs' memory for weights and KV (``--mem-fraction-static``), as ``memory``
            counts it; SGLang's own choice if None.
        hardware: Name of the GPUs in artifacts and reports.
        gpus: GPUs of one replica.
        replicas: Number of replicas that share the traffic.
        router: Rule by which requests are routed to replicas.
        drafter_gamma: Block length in drafts that the drafter was trained with; longer blocks would have lower
            acceptance.
        server: Flags of each replica's server.
        cost: Profiled step times; the belief of policies that need one.
        memory: KV pool of a replica.
        live: Distribution of the difference between live and profiled step times.
        acceptance: Acceptance model of the drafter by domain; the paper's Qwen3-4B drafter if None.
        drafter_quality: Logits added to the quality of ``acceptance`` on every domain.
        workload: Arrivals and classes of the requests of all replicas together.
        loads: Loads at which ``tune`` and ``bench`` compare policies: clients of a closed loop, or factors on the rate
            of an open loop.
        run: Length of a simulation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    description: str = ""
    model: str
    model_path: str | None = None
    draft_path: str | None = None
    kv_cache_dtype: KvDtype = "auto"
    mem_fraction_static: Annotated[float, Field(gt=0, lt=1)] | None = None
    hardware: str
    gpus: Annotated[int, Field(ge=1)] = 1
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    router: RouterName = "round_robin"
    drafter_gamma: Annotated[int, Field(ge=1, le=16)] = 7
    server: Server = Server()
    cost: Cost
    memory: Memory
    live: Live = Live()
    acceptance: AcceptanceModel | None = None
    drafter_quality: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 0.0
    workload: Workload
    loads: tuple[Factor, ...] = Field(default=(1.0,), min_length=1)
    run: Run = Run()

    @field_validator("cost")
    @classmethod
    def _profiled_block(cls, cost: CostModel, info: ValidationInfo) -> CostModel:
        block = info.data.get("drafter_gamma")
        return cost if block is None else cost.with_draft_block(block)

    @field_validator("memory")
    @classmethod
    def _priced(cls, memory: Memory, info: ValidationInfo) -> Memory:
        if not {"model", "gpus", "server", "cost"} <= info.data.keys():
            return memory
        costs = info.data["cost"].flag_costs()
        shapes = known(info.data["model"])
        if costs is None and shapes is not None:
            costs = flag_costs(shapes.model, shapes.assumed_draft, info.data["gpus"])
        return memory.known(info.data["server"], costs)

    @model_validator(mode="after")
    def _fits(self) -> Scenario:
        if self.server.gamma > self.drafter_gamma:
            raise ValueError(
                f"server.gamma {self.server.gamma} is beyond the drafter's block; use at most {self.drafter_gamma}"
            )
        if self.drafter_gamma > self.drafter().gamma:
            raise ValueError(
                f"drafter_gamma {self.drafter_gamma} is beyond the acceptance model's block; "
                f"use at most {self.drafter().gamma}"
            )
        self.drafter().compile([klass.domain for klass in self.workload.classes])
        if self.workload.clients is not None and any(load != math.floor(load) for load in self.loads):
            raise ValueError("loads of a closed loop are numbers of clients; give whole numbers")
        return self

    def shape(self) -> ModelShape | None:
        """Shape of the model: the one behind its step times, or that of a model known by name."""
        shapes = known(self.model)
        computed = self.cost.computed_from()
        known_shape = None if shapes is None else shapes.model
        return known_shape if computed is None else computed.model

    def checkpoints(self) -> Checkpoints:
        """What a launch command gives to SGLang as model and draft."""
        shapes = known(self.model)
        if shapes is None:
            model = self.model_path or (self.model if "/" in self.model else None)
            return Checkpoints(model, self.draft_path)
        model = self.model_path or shapes.id
        return Checkpoints(model, self.draft_path or (model if shapes.bundled else shapes.draft_id))

    def drafter(self) -> AcceptanceModel:
        """The acceptance model, with ``drafter_quality`` applied."""
        return (self.acceptance or packaged()).shifted(self.drafter_quality)

    def has_room(self, server: Server) -> bool:
        """Whether the flags of ``server`` leave a KV pool that holds a request."""
        try:
            server.record(self.workload.classes, self.memory.tokens(server))
        except InputError:
            return False
        return True

    def profiled_steps(self, gamma: int) -> CostRecord:
        """Profiled step times of a server that drafts ``gamma`` positions."""
        return self.cost.tabulate(gamma, self.live.centre().draft_fixed)

    def live_steps(self, gamma: int, truth: Truth) -> CostRecord:
        """Live step times of such a server under ``truth``."""
        return live(self.cost.tabulate(gamma, truth.draft_fixed), truth.overhead_s, truth.slope)

    def planner_table(self, gamma: int) -> CostBelief:
        """Cost table of a stock server with ``gamma``."""
        return self.cost.planner_table(gamma, self.live.centre().draft_fixed)

    def extrapolated(self, server: Server) -> str:
        """Warning if captured steps of ``server`` at this load may exceed the largest measured one, otherwise empty."""
        measured = self.cost.measured_tokens()
        tiers = server.tiers()
        running = min(self.workload.clients or server.max_running_requests, server.max_running_requests)
        largest = running * (server.gamma + 1 if server.speculative else 1)
        if measured is None or not len(tiers) or (largest := min(largest, int(tiers[-1]))) <= measured:
            return ""
        return f"extrapolated: steps were measured up to {measured:,} tokens, and here have up to {largest:,}"

    def at_load(self, load: float) -> Scenario:
        """The scenario with ``load`` clients (closed loop) or ``load`` times its rate (open loop), warmed up."""
        closed = self.workload.clients is not None
        workload = self.workload.with_clients(int(load)) if closed else self.workload.scaled(load)
        return self.with_workload(workload).warmed()

    def warmed(self) -> Scenario:
        """The scenario with a warm-up long enough for its load, and the same number of measured requests.

        Clients of a closed loop start together, so each sends a second request before the measurement. The warm-up of
        an open loop lasts until a replica could have filled its batch and replaced every request of it.
        """
        rate_per_s = self.workload.arrivals.mean_rate_per_s
        if rate_per_s is None:
            clients = self.workload.clients or 0
            least = clients + clients // 2
        else:
            least = math.ceil(2 * rate_per_s * self.residence_s())
        more = max(0, least - self.run.warmup_requests)
        run = {"requests": self.run.requests + more, "warmup_requests": self.run.warmup_requests + more}
        return self.model_copy(update={"run": self.run.model_copy(update=run)})

    def largest_batch(self) -> int:
        """Requests that the KV pool of a replica without speculation holds, at most MAX_REQUESTS."""
        requests = self._that_fit()
        context = float((requests["prompt"] + requests["output"]).mean())
        return int(min(MAX_REQUESTS, max(1, self.memory.kv_tokens_without_draft // context)))

    def _that_fit(self) -> NDArray[np.void]:
        """Requests of the workload that fit the KV pool, REQUEST [n]; all requests if none fits."""
        requests = next(self.workload.chunks(seed=0))
        fit = requests[requests["prompt"] < self.memory.kv_tokens_without_draft]
        return fit if len(fit) else requests

    def residence_s(self) -> float:
        """Seconds that a request spends in the largest batch of a replica, without speculation.

        By Little's law: meanwhile the replica prefills a prompt for each request of the batch and decodes one output.
        """
        requests = self._that_fit()
        prompt, output = float(requests["prompt"].mean()), float(requests["output"].mean())
        new, batch = prompt - float(requests["cached"].mean()), self.largest_batch()
        cost = self.live_steps(self.server.gamma, self.live.centre())
        chunk = self.server.chunked_prefill_size
        a_prompt_s = numeric.prefill_s(cost, chunk, chunk * prompt / 2) * new / chunk
        step_s = numeric.host_s(cost, batch, False) + numeric.verify_s(
            cost, batch, True, int(batch * (prompt + output / 2)), batch
        )
        return batch * a_prompt_s + output * step_s

    def with_workload(self, workload: Workload) -> Scenario:
        return self.model_copy(update={"workload": workload})

    def with_profile(self, path: Path) -> Scenario:
        """The scenario's traffic on a calibrated deployment.

        Raises:
            InputError: Not a profile, or its acceptance model lacks a domain of the traffic.
        """
        content = self.model_dump() | {"drafter_quality": 0.0} | load_profile(path).deployment()
        return validated(Scenario, content, path)

    def with_acceptance(self, path: Path, domain: str | None = None) -> Scenario:
        """The scenario with another drafter, from an acceptance model that ``dspark eval`` wrote.

        Args:
            domain: Domain of all requests; by default each class keeps its own.

        Raises:
            InputError: Not an acceptance model, or it lacks a domain of the traffic.
        """
        model = load_acceptance(path)
        content = self.model_dump()
        content |= {"acceptance": model.model_dump(), "drafter_quality": 0.0, "drafter_gamma": model.gamma}
        gamma = min(self.server.gamma, model.gamma)
        content["server"] = self.server.model_dump(exclude_unset=True) | {"gamma": gamma}
        if domain is not None:
            for klass in content["workload"]["classes"]:
                klass["domain"] = domain
        return validated(Scenario, content, path)

    def with_trace(self, path: Path, settings: TraceSettings = AS_READ) -> Scenario:
        """The scenario with the arrivals and lengths of a request trace.

        Raises:
            InputError: The file cannot be read so, or has a class that the scenario has not.
        """
        arrivals = trace_arrivals(path, settings)
        try:
            workload = Workload(arrivals=arrivals, classes=self.workload.classes)
        except ValidationError as error:
            raise from_validation(error, path) from error
        return self.model_copy(update={"workload": workload, "loads": (1.0,)})


def trace_arrivals(path: Path, settings: TraceSettings = AS_READ) -> Trace:
    """The arrivals of a request trace.

    Raises:
        InputError: The file cannot be read so.
    """
    trace = validated(Trace, {"kind": "trace", "path": path, **settings.model_dump(exclude_unset=True)}, path)
    # A scenario that is written to a file holds paths from the file's folder.
    files = {name: file.absolute() for name in ("path", "class_of") if (file := getattr(trace, name)) is not None}
    return trace.model_copy(update=files)


def names() -> list[str]:
    """The packaged scenarios."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def load(source: str) -> Scenario:
    """Read a packaged scenario by name, or a YAML file by path.

    Raises:
        InputError: No such scenario, not YAML, or an invalid field.
    """
    if source in names():
        return parse((PACKAGED / f"{source}.yaml").read_text(), source, Path.cwd())
    path = Path(source)
    if not path.is_file():
        hint = did_you_mean(source, names())
        raise InputError(f"{source}: no such scenario or file; packaged are {', '.join(names())}{hint}")
    check_kind(path, "scenario")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read as text ({error}); give a YAML file") from error
    return parse(text, source, path.parent)


def parse(text: str, source: str, base: Path) -> Scenario:
    """Read a scenario from YAML; relative paths in it start from the folder ``base``.

    A field ``base`` in the file names a packaged scenario, from which all absent fields are taken.
    """
    content = parse_yaml(text, source)
    if not isinstance(content, dict):
        raise InputError(f"{source}: holds no fields; write a scenario, as `dspark scenario show {DEFAULT}` prints one")
    while "base" in content:
        content = _packaged(content.pop("base"), source) | content
    if "profile" in content:
        profile = content.pop("profile")
        if not isinstance(profile, str):
            raise InputError(f"{source}: profile: {profile!r} is not valid; give the path of a profile.json")
        content = load_profile(base / profile).deployment() | content
    return validated(Scenario, content, source, {"base": base}, also=("base", "profile"))


def _packaged(name: Any, source: str) -> dict[str, Any]:
    if name not in names():
        raise InputError(f"{source}: base: {name!r} is no packaged scenario; give one of {', '.join(names())}")
    content: dict[str, Any] = parse_yaml((PACKAGED / f"{name}.yaml").read_text(), name)
    return content


def json_schema() -> dict[str, Any]:
    """The published JSON schema of a scenario file, with the fields that :func:`parse` adds to those of a scenario."""
    schema = Scenario.model_json_schema(schema_generator=DocumentedSchema)
    base = {"description": "Packaged scenario from which all absent fields are taken.", "enum": names()}
    profile = {"description": "Path of a profile.json of `dspark calibrate`: the deployment.", "type": "string"}
    schema["properties"] |= {"base": base, "profile": profile}
    required = schema.pop("required")
    measured = [name for name in required if name not in Profile.model_fields]
    schema["anyOf"] = [{"required": ["base"]}, {"required": ["profile", *measured]}, {"required": required}]
    return schema


SeedSet = Literal["search", "select", "report"]


def seeds(purpose: SeedSet, seed: int, count: int) -> list[int]:
    """``count`` seeds of one of three disjoint sets; a seed determines requests, acceptances and a truth."""
    offset = {"search": 0, "select": 1, "report": 2}[purpose]
    return [int(x) for x in 3 * (np.arange(count) + 1_000_003 * seed) + offset]
