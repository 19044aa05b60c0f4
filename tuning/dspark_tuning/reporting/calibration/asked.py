"""What was recorded, of which server."""

from __future__ import annotations

from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.reporting.page import Row, Section, definitions, table


def section(found: Calibrated) -> Section:
    profile = found.profile
    server = profile.server
    counts = profile.provenance
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
        ("Loads asked for", ", ".join(str(load) for load in sorted({cell.requests for cell in found.coverage.grid}))),
    ]
    recordings = table(
        "Recordings",
        ["File", "Recorder", "SGLang", "Verify mode", "Ranks", "Overlap", "Steps lost"],
        [
            Row(
                told["file"],
                [
                    "our plugin" if told["source"] == "dspark" else "SGLang's own",
                    told["engine"],
                    told["verify_mode"],
                    str(told["tp_size"]),
                    "off" if told["disable_overlap"] else "on",
                    f"{told['lost']:,}",
                ],
            )
            for told in counts["recordings"]
        ],
        words=True,
    )
    return Section("asked", "What was recorded", [definitions(facts), recordings])
