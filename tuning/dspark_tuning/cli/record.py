"""``dspark record``: record the steps of a running server."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.cli.common import ApiKey, Json, Url, print_json, print_text

if TYPE_CHECKING:
    from dspark_tuning.measuring.recording.record import Recorded


def record(
    url: Url,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The Parquet file to write.")] = Path(
        "run.parquet"
    ),
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Duration. [default: until Ctrl-C]")
    ] = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Record the steps of a running SGLang server with DSPARK, with or without our plugin."""
    from threading import Event

    from dspark_tuning.measuring.recording.record import record as run
    from sglang_dspark.sglang_client import Client

    stop = Event()

    def end(*signal: Any) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        found = run(Client(url, api_key), out, stop, seconds, lambda text: print(text, file=sys.stderr, flush=True))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if as_json:
        print_json(found._asdict() | {"about": found.about.model_dump(mode="json")})
    else:
        _print(found)


def _print(found: Recorded) -> None:
    about = found.about
    most = "at most " if about.source == "sglang" and about.lost else ""
    share = about.lost / (found.decodes + found.prefills + about.lost)
    lines = [
        f"{found.file}: {found.decodes} decode steps and {found.prefills} prefills in {found.seconds:.0f} s, "
        f"{found.segments} without a gap.",
        f"Lost: {most}{about.lost} steps ({share:.1%}).",
    ]
    if found.restarts:
        lines.append(
            f"The server restarted {found.restarts} times; steps between the last poll and a restart are lost too."
        )
    if found.unanswered:
        lines.append(f"Unanswered polls: {found.unanswered}.")
    lines += [f"Not recorded. {sentence}" for sentence in about.partial]
    print_text(*lines)
