"""Calibrate a profile on recordings, with its residuals and coverage."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dspark_simulator.acceptance_model import packaged
from dspark_simulator.deployment import Memory
from dspark_simulator.profile import Profile
from dspark_simulator.server import Server
from dspark_tuning.measuring.calibrate import acceptance_fit, confidence, cost, coverage, step_cells
from dspark_tuning.measuring.calibrate.acceptance_fit import AcceptanceFit
from dspark_tuning.measuring.calibrate.confidence import ConfidenceCalibration
from dspark_tuning.measuring.calibrate.cost import CostFit
from dspark_tuning.measuring.calibrate.coverage import Coverage
from dspark_tuning.measuring.calibrate.rounds import rounds
from dspark_tuning.measuring.calibrate.timelines import timelines
from dspark_tuning.measuring.recording.schema import About, read
from dspark_tuning.search.timeline import Timeline

# KV pool of a server that does not report it: larger than any load.
KV_TOKENS = 1_000_000_000
CHUNK = 8192


class Calibrated(NamedTuple):
    """A profile and the fits behind it.

    Attributes:
        decoded: The timed decode steps (:func:`dspark_tuning.measuring.calibrate.step_cells.decodes`).
        acceptance, head: None if the recording has no lengths, or too few whole rounds.
        timelines: One per recording, in the order of the provenance of the profile.
    """

    profile: Profile
    decoded: pd.DataFrame
    cost: CostFit
    acceptance: AcceptanceFit | None
    head: ConfidenceCalibration | None
    coverage: Coverage
    timelines: tuple[Timeline, ...]


def calibrate(
    paths: Sequence[Path],
    plain: pd.DataFrame | None = None,
    hardware: str = "as recorded",
    gpus: int = 1,
    loads: Sequence[int] = (),
) -> Calibrated:
    """Calibrate a profile on recordings of one deployment.

    Args:
        plain: Decode steps of the same server without speculation: requests, context, step_s.
        hardware, gpus: Names recorded in the profile.
        loads: Numbers of running requests that the profile has to cover.

    Raises:
        InputError: An unreadable recording, recordings of different deployments, or no timed steps.
    """
    record = read(paths)
    about = record.abouts[0]
    decoded, prefilled = step_cells.decodes(record), step_cells.prefills(record)
    fitted = cost.fit(decoded, prefilled, plain, record.gamma)
    verified = rounds(record)
    head = confidence.calibrate(verified)
    temperatures = np.ones(record.gamma) if head is None else head.temperatures
    source = ", ".join(path.name for path in paths)
    accepted = None
    warnings = [sentence for one in record.abouts for sentence in one.partial if "length" in sentence.lower()]
    warnings += fitted.warnings
    if len(verified.verified):
        accepted = acceptance_fit.fit(verified, temperatures, about.model, about.draft_model, source)
        warnings += accepted.warnings
        drafter = accepted.model
    else:
        drafter = packaged()
        warnings.append(
            "No accepted lengths were recorded: acceptance is that of the packaged drafter (Qwen3-4B of the paper)."
        )
    if head is None and accepted is not None:
        warnings.append("Too few whole rounds with confidences: no temperatures were fitted.")
    covered = coverage.of(decoded, record.gamma, loads)
    warnings += covered.warnings
    kv_tokens = about.max_total_num_tokens or KV_TOKENS
    profile = Profile(
        model=about.model,
        hardware=hardware,
        gpus=gpus,
        drafter_gamma=min(record.gamma, drafter.gamma),
        server=_server(about, fitted),
        memory=Memory(kv_tokens=kv_tokens, kv_tokens_without_draft=kv_tokens),
        cost=fitted.cost,
        live=fitted.live,
        acceptance=drafter,
        sts_temperatures=tuple(float(t) for t in temperatures),
        provenance={
            "recordings": [
                {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **_provenance(one)}
                for path, one in zip(paths, record.abouts, strict=True)
            ],
            "decode_steps": len(decoded),
            "prefill_steps": len(prefilled),
            "rounds": len(verified.verified),
            "capture": fitted.capture.why,
        },
        residuals=_residuals(fitted, accepted, head),
        warnings=tuple(dict.fromkeys(warnings)),
    )
    return Calibrated(profile, decoded, fitted, accepted, head, covered, timelines(record))


def _server(about: About, fitted: CostFit) -> Server:
    running = about.max_running_requests or 48
    chunk = about.chunked_prefill_size if about.chunked_prefill_size and about.chunked_prefill_size > 0 else None
    return Server(
        gamma=about.gamma,
        verify_mode=about.verify_mode,
        max_running_requests=running,
        capture_requests=min(fitted.capture.requests, running),
        chunked_prefill_size=chunk or about.max_prefill_tokens or CHUNK,
        max_prefill_tokens=about.max_prefill_tokens or CHUNK,
    )


def _provenance(about: About) -> dict[str, Any]:
    return about.model_dump(
        mode="json", include={"source", "engine", "verify_mode", "tp_size", "disable_overlap", "lost", "classes"}
    )


def _residuals(fitted: CostFit, accepted: AcceptanceFit | None, head: ConfidenceCalibration | None) -> dict[str, Any]:
    residuals: dict[str, Any] = {
        error.part: {"steps": error.steps, "median": error.median, "p90": error.p90} for error in fitted.errors
    }
    if accepted is not None:
        off = np.abs(accepted.modelled - accepted.measured)[accepted.judged > 0]
        residuals["conditional acceptance"] = {
            "positions": int(off.size),
            "mean": float(off.mean()),
            "worst": float(off.max()),
        }
    if head is not None:
        residuals["confidence"] = {
            "whole_rounds": head.rounds,
            "ece_before": [float(x) for x in head.ece_before],
            "ece_after": [float(x) for x in head.ece_after],
            "auc": [None if math.isnan(x) else float(x) for x in head.auc],
        }
    return residuals
