"""The report of a calibration: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.measuring.calibrate.coverage import LEAST_STEPS, Run
from dspark_tuning.reporting.calibration import acceptance, confidence, steps
from dspark_tuning.reporting.page import Section, code, definitions, details, document, lead, paragraph, subheading
from dspark_tuning.reporting.provenance import provenance
from dspark_tuning.reporting.table import Strong, Table, Words
from dspark_tuning.reporting.timelines import timelines

__all__ = ["render", "to_record"]

NOTE = "Measured on the recorded server; nothing on this page applies to other hardware."


def render(calibrated: Calibrated, commands: Sequence[str]) -> str:
    """The report of a calibration as one HTML document.

    Args:
        commands: Reproduce the calibration and use its profile.
    """
    sections = [
        _recorded(calibrated),
        _answer(calibrated),
        steps.section(calibrated),
        acceptance.section(calibrated),
        confidence.section(calibrated),
        _coverage(calibrated),
        _timelines(calibrated),
        _provenance(calibrated, commands),
    ]
    return document(f"Calibration of {calibrated.profile.model}", NOTE, sections)


def to_record(runs: Sequence[Run]) -> list[str]:
    """The loads that are still to be recorded, as lines of text."""
    if not runs:
        return ["All requested loads are covered."]
    lines = [f"Still to be recorded, {sum(run.seconds for run in runs):.0f} s of a server in all:"]
    for run in runs:
        policy = (
            f"a policy that verifies {run.length} drafts (family fixed)" if run.drafted else "one that never drafts"
        )
        lines.append(f"  {run.seconds:.0f} s: dspark load --load {run.clients}, with {policy}")
    return lines


def _recorded(calibrated: Calibrated) -> Section:
    profile = calibrated.profile
    server, counts = profile.server, profile.provenance
    facts = [
        ("Model", profile.model),
        ("Hardware", f"{profile.hardware} (GPUs a replica: {profile.gpus})"),
        (
            "Flags",
            f"gamma {server.gamma}, at most {server.max_running_requests} running requests, "
            f"prefill chunks of {server.chunked_prefill_size:,} tokens",
        ),
        ("Steps with a time", f"{counts['decode_steps']:,} decodes, {counts['prefill_steps']:,} prefills"),
        ("Rounds with lengths", f"{counts['rounds']:,}"),
        ("Loads", ", ".join(str(load) for load in sorted({cell.requests for cell in calibrated.coverage.grid}))),
    ]
    rows = [
        [
            recording["file"],
            "our plugin" if recording["source"] == "dspark" else "SGLang's own",
            recording["engine"],
            recording["verify_mode"],
            str(recording["tp_size"]),
            "off" if recording["disable_overlap"] else "on",
            f"{recording['lost']:,}",
        ]
        for recording in counts["recordings"]
    ]
    columns = ["File", *map(Words, ("Recorder", "SGLang", "Verify mode", "Ranks", "Overlap", "Steps lost"))]
    return Section("asked", "Recorded server", [definitions(facts), Table("Recordings", columns, rows)])


def _answer(calibrated: Calibrated) -> Section:
    worst = max(calibrated.cost.errors, key=lambda error: error.median, default=None)
    text = (
        f"{len(calibrated.decoded):,} decode steps were recorded."
        if worst is None
        else f"Error of step times on held-out steps: median {worst.median:.1%}, 90th percentile {worst.p90:.1%} "
        f"({worst.part}, the worst part)."
    )
    warnings = [paragraph(f"Warning. {sentence}") for sentence in calibrated.profile.warnings]
    return Section("answer", "Result", [lead(text), *warnings])


def _coverage(calibrated: Calibrated) -> Section:
    rows = [
        [
            f"{cell.requests} requests",
            f"{cell.length} drafts verified" if cell.drafted else "no draft",
            str(cell.steps),
            "yes" if cell.steps >= LEAST_STEPS else Strong("no"),
        ]
        for cell in calibrated.coverage.grid
    ]
    columns = ["Load", *map(Words, ("Verified", "Steps", "Covered"))]
    return Section("coverage", "Coverage", [Table("Steps near each load", columns, rows)])


def _timelines(calibrated: Calibrated) -> Section:
    files = [recording["file"] for recording in calibrated.profile.provenance["recordings"]]
    parts = [
        details(name, timelines(f"timeline-{place}", [(name, run)]), unfolded=place == 0)
        for place, (name, run) in enumerate(zip(files, calibrated.timelines, strict=True))
    ]
    return Section("recordings", "The recordings over time", parts)


def _provenance(calibrated: Calibrated, commands: Sequence[str]) -> Section:
    files = Table(
        "Recordings by their content",
        ["File", Words("SHA-256")],
        [[recording["file"], recording["sha256"]] for recording in calibrated.profile.provenance["recordings"]],
    )
    return provenance(
        [], files, subheading("To reproduce this report, and to use the profile"), code("\n".join(commands))
    )
