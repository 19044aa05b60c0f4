"""Profiles: calibrated deployments that ``dspark calibrate`` writes and scenarios read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dspark_simulator.acceptance_model import AcceptanceModel
from dspark_simulator.costs import Cost
from dspark_simulator.deployment import Live, Memory
from dspark_simulator.server import Server
from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.files import write_atomically

SCHEMA_VERSION = 1


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a file that `dspark calibrate` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); give a file that `dspark calibrate` wrote") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InputError(f"{path}: schema_version: missing; give a file that `dspark calibrate` wrote")
    if content["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version: {str(content['schema_version'])[:60]!r} is not {SCHEMA_VERSION}; calibrate again"
        )
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        raise from_validation(error, path, content) from error


def dumps(profile: Profile) -> str:
    """The profile as JSON with sorted keys: the same bytes for the same content."""
    return json.dumps(profile.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"


def save(profile: Profile, path: Path) -> None:
    """Write a profile atomically."""
    write_atomically(path, dumps(profile))
