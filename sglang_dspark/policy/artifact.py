"""``policy.json``: the policy for the live engine, with its provenance and evidence for a reviewer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sglang_dspark.errors import InputError, validated
from sglang_dspark.files import write_atomically
from sglang_dspark.parsing import parse_json
from sglang_dspark.policy.belief import CostBelief
from sglang_dspark.policy.families import AnyPolicy

SCHEMA_VERSION: Final = 2
# Version 1 has no ``cost_belief.eager``.
READABLE: Final = (1, SCHEMA_VERSION)

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(_Part):
    """Origin of a policy. Nothing here changes the engine's behaviour.

    Attributes:
        truths: The distribution of live steps around the belief that the evidence was drawn from.
        search_space: Values searched, by parameter.
        seeds: The first seed and the number of seeds of each of the disjoint sets.
    """

    scenario: str
    hardware: str
    model: str
    engine: str
    workload: dict[str, Any]
    slo: dict[str, dict[str, float]]
    objective: str
    simulator_version: str
    truths: dict[str, list[float]]
    seeds: dict[str, list[int]]
    trials: int
    search_space: dict[str, Any]


class EvidenceRow(_Part):
    """One arm at one load on the report set, beside the tuned policy on the same requests and truths.

    Attributes:
        load: Clients of a closed loop, or factor on the scenario's rate; null over all loads.
        metric: What is compared: ``throughput``, ``goodput``, ``tpot`` (as 1/TPOT) or ``front``.
        mean: Of the arm, over replications.
        ratio: Tuned over this arm, geometric mean over paired replications; ``low`` and ``high`` are its 95 % interval.
            Null where it would be a ratio to next to nothing: then ``difference`` is there, with its interval.
    """

    arm: str
    load: Number | None
    metric: str
    mean: Number
    ratio: Number | None
    difference: Number | None = None
    low: Number
    high: Number
    replications: int


class Artifact(_Part):
    """A tuned policy with its provenance and evidence.

    Attributes:
        serve: ``plain`` where serving without speculation won; the policy is then ``none``.
        classes: Class names in the order of ``policy.weight``.
        sts_temperatures: One a position of the block.
        server_flags: The flags the policy was tuned with, as SGLang spells them.
        advice: What to do, in one sentence.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    policy: AnyPolicy
    serve: Literal["speculative", "plain"] = "speculative"
    gamma: Annotated[int, Field(ge=1, le=16)]
    classes: tuple[str, ...] = Field(min_length=1, max_length=16)
    sts_temperatures: tuple[Positive, ...]
    cost_belief: CostBelief
    server_flags: dict[str, str]
    environment: dict[str, str] = {}
    advice: str
    provenance: Provenance
    evidence: tuple[EvidenceRow, ...]

    @model_validator(mode="after")
    def _fits(self) -> Artifact:
        if len(self.sts_temperatures) != self.gamma:
            raise ValueError(
                f"sts_temperatures has {len(self.sts_temperatures)} entries for gamma {self.gamma}; give one a position"
            )
        return self


def untuned(policy: AnyPolicy, belief: CostBelief, gamma: int, **fields: Any) -> Artifact:
    """Make an artifact of an untuned policy, with empty provenance and evidence.

    Args:
        fields: Fields of :class:`Artifact`, in place of the neutral ones.
    """
    unknown = Provenance(
        scenario="none",
        hardware="none",
        model="none",
        engine="sglang",
        workload={},
        slo={},
        objective="throughput",
        simulator_version="none",
        truths={},
        seeds={},
        trials=0,
        search_space={},
    )
    neutral: dict[str, Any] = {
        "policy": policy,
        "gamma": gamma,
        "classes": ("default",),
        "sts_temperatures": (1.0,) * gamma,
        "cost_belief": belief,
        "server_flags": {},
        "advice": "Not tuned.",
        "provenance": unknown,
        "evidence": (),
    }
    return Artifact.model_validate(neutral | fields)


def load(path: str | Path) -> Artifact:
    """Read an artifact.

    Raises:
        InputError: Not readable, not JSON, another schema version, an unknown or a wrong field.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a policy.json") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; give the path of a policy.json") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Artifact:
    """Read an artifact from its text; ``source`` names it in errors."""
    content = parse_json(text, source, "give a policy.json written by `dspark tune`")
    if not isinstance(content, dict):
        raise InputError(f"{source}: holds no fields; give a policy.json written by `dspark tune`")
    # Checked before the fields: another version may have other fields, and is not a damaged file.
    if "schema_version" not in content:
        raise InputError(f"{source}: schema_version: missing; give a policy.json written by `dspark tune`")
    version = content["schema_version"]
    if version not in READABLE or isinstance(version, bool):
        raise InputError(
            f"{source}: schema_version: {str(version)[:60]!r} is not {' or '.join(map(str, READABLE))}; "
            "tune again with this release"
        )
    content["schema_version"] = SCHEMA_VERSION
    return validated(Artifact, content, source)


def dumps(artifact: Artifact) -> str:
    """The artifact as text: sorted keys, one field a line, the same bytes for the same content."""
    return json.dumps(artifact.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"


def save(artifact: Artifact, path: str | Path) -> None:
    """Write an artifact atomically."""
    write_atomically(Path(path), dumps(artifact))


def diff(old: Artifact, new: Artifact) -> list[tuple[str, str, str]]:
    """Fields that differ, as (field, old value, new value), in the order of the file."""
    before, after = (dict(_flat("", artifact.model_dump(mode="json"))) for artifact in (old, new))
    return [
        (field, before.get(field, "-"), after.get(field, "-"))
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key in value for pair in _flat(f"{prefix}.{key}" if prefix else key, value[key])]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for i, item in enumerate(value) for pair in _flat(f"{prefix}[{i}]", item)]
    return [(prefix, json.dumps(value))]
