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
        float | None, typer.Option("--seconds", min=0.1, help="Duration. \\[default: until Ctrl-C]")
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
        recorded = run(Client(url, api_key), out, stop, seconds, lambda text: print(text, file=sys.stderr, flush=True))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if as_json:
        print_json(recorded._asdict() | {"about": recorded.about.model_dump(mode="json")})
    else:
        _print(recorded)


def _print(recorded: Recorded) -> None:
    about = recorded.about
    most = "at most " if about.source == "sglang" and about.lost else ""
    share = about.lost / (recorded.decodes + recorded.prefills + about.lost)
    lines = [
        f"{recorded.file}: {recorded.decodes} decode steps and {recorded.prefills} prefills "
        f"in {recorded.seconds:.0f} s, {recorded.segments} without a gap.",
        f"Lost: {most}{about.lost} steps ({share:.1%}).",
    ]
    if recorded.restarts:
        lines.append(
            f"The server restarted {recorded.restarts} times; steps between the last poll and a restart are lost too."
        )
    if recorded.unanswered:
        lines.append(f"Unanswered polls: {recorded.unanswered}.")
    lines += [f"Not recorded. {sentence}" for sentence in about.partial]
    print_text(*lines)
