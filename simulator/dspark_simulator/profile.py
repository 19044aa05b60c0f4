"""Profiles: calibrated deployments that ``dspark calibrate`` writes and scenarios read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dspark_simulator.acceptance_model import AcceptanceModel
from dspark_simulator.costs import Cost
from dspark_simulator.deployment import Live, Memory
from dspark_simulator.server import Server
from dspark_simulator.wrong_kind import check_kind
from sglang_dspark.errors import InputError, validated
from sglang_dspark.files import write_atomically
from sglang_dspark.parsing import parse_json

SCHEMA_VERSION = 1
REMEDY = "give a file that `dspark calibrate` wrote"


class Profile(BaseModel):
    """A deployment with its provenance and residuals.

    Attributes:
        model, hardware, gpus, drafter_gamma, server, memory, cost, live, acceptance: As in a scenario.
        sts_temperatures: By draft position, fitted to the recorded confidences; ones without recorded confidences.
        provenance: Sources of the profile.
        residuals: Differences between the fits and the recording, by part.
        warnings: Sentences about quantities that the recording does not determine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1] = 1
    model: str
    hardware: str
    gpus: int
    drafter_gamma: int
    server: Server
    memory: Memory
    cost: Cost
    live: Live
    acceptance: AcceptanceModel
    sts_temperatures: tuple[float, ...]
    provenance: dict[str, Any]
    residuals: dict[str, Any]
    warnings: tuple[str, ...]

    def deployment(self) -> dict[str, Any]:
        """The fields that a scenario takes."""
        names = ("model", "hardware", "gpus", "drafter_gamma", "server", "memory", "cost", "live", "acceptance")
        content = self.model_dump(mode="json", include=set(names))
        # A scenario may set other flags than those of the recorded pool.
        content["memory"] = self.memory.known(self.server, None).model_dump(mode="json")
        return {name: content[name] for name in names}


def load(path: Path) -> Profile:
    """Read a profile.

    Raises:
        InputError: Not readable, not JSON, another schema version, an unknown or a wrong field.
    """
    check_kind(path, "profile")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); {REMEDY}") from error
    content = parse_json(text, path, REMEDY)
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InputError(f"{path}: schema_version: missing; {REMEDY}")
    if content["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version: {str(content['schema_version'])[:60]!r} is not {SCHEMA_VERSION}; calibrate again"
        )
    return validated(Profile, content, path)


def dumps(profile: Profile) -> str:
    """The profile as JSON with sorted keys: the same bytes for the same content."""
    return json.dumps(profile.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"


def save(profile: Profile, path: Path) -> None:
    """Write a profile atomically."""
    write_atomically(path, dumps(profile))
