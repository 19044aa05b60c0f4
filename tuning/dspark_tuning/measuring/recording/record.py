"""Record a server: poll it until the end is requested, and write the steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Final, NamedTuple

import pyarrow.compute as pc

from dspark_tuning.measuring.recording.ours import Ours
from dspark_tuning.measuring.recording.schema import About, Writer, check_writable
from dspark_tuning.measuring.recording.source import Source
from dspark_tuning.measuring.recording.stock import Stock
from sglang_dspark.errors import InputError
from sglang_dspark.sglang_client import Client, UnansweredError

GONE_S: Final = 300.0
"""A server that has not answered for so long will not come back."""


class Recorded(NamedTuple):
    """Result of a recording.

    Attributes:
        unanswered: Polls that failed.
        restarts: How often the server was started anew; steps that went with it are not in ``about.lost``.
    """

    file: Path
    decodes: int
    prefills: int
    segments: int
    seconds: float
    unanswered: int
    restarts: int
    about: About


def source(client: Client) -> Source:
    """Detect how the server reports its steps, and open the recording.

    Raises:
        InputError: It does not, which the message mends.
    """
    info = client.connect()
    try:
        # From the beginning, even where another recording was left open.
        if client.set_state(dspark_policy_record=0) and client.set_state(dspark_policy_record=1):
            return Ours(client, info)
        if client.set_state(dspark_clear_info_records=1):
            return Stock(client, client.connect())
    except UnansweredError as error:
        raise InputError(f"{client.url}: refuses to record ({error}); see its log") from error
    algorithm = info.get("speculative_algorithm")
    if algorithm is None:
        raise InputError(
            f"{client.url}: serves without speculation, which records no steps; start it with "
            "--speculative-algorithm DSPARK, or measure it with `dspark load`"
        )
    raise InputError(
        f"{client.url}: speculative_algorithm: {algorithm} is not recorded; start the server with "
        "--speculative-algorithm DSPARK"
    )


def record(
    client: Client,
    out: Path,
    stop: Event,
    seconds: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Recorded:
    """Record until ``stop`` is set, ``seconds`` are over, or the server is gone for good.

    Args:
        say: Called with progress messages.

    Raises:
        InputError: The server cannot be recorded, the file cannot be written, or there was nothing to record.
    """
    check_writable(out)
    chosen = source(client)
    say(f"Recording {client.url}: {chosen.name}.")
    try:
        with Writer(out) as writer:
            return _record(chosen, writer, out, stop, seconds, say)
    finally:
        try:
            chosen.end()
        except UnansweredError as error:
            say(f"The server could not be notified that the recording is over ({error}).")


def _record(
    chosen: Source, writer: Writer, out: Path, stop: Event, seconds: float | None, say: Callable[[str], None]
) -> Recorded:
    started_s = answered_s = time.monotonic()
    end_s = float("inf") if seconds is None else started_s + seconds
    decodes = prefills = segments = lost = unanswered = 0
    silent = False
    last_segment = -1
    while True:
        stop.wait(min(chosen.wait_s, max(end_s - time.monotonic(), 0)))
        # What is decided before the last poll holds after it.
        ending = stop.is_set() or time.monotonic() >= end_s
        try:
            steps, missed = chosen.poll()
        except UnansweredError as error:
            unanswered += 1
            if not silent:
                say(f"No answer ({error}); trying on.")
            silent = True
            if time.monotonic() - answered_s > GONE_S:
                say(f"No answer for {GONE_S:.0f} s: the recording ends.")
                ending = True
        else:
            silent, answered_s = False, time.monotonic()
            lost += missed
            if len(steps):
                writer.append(steps)
                count = pc.sum(pc.equal(steps["kind"], "prefill")).as_py()
                prefills, decodes = prefills + count, decodes + len(steps) - count
                polled = set(steps["segment"].to_pylist())
                segments += len(polled - {last_segment})
                last_segment = max(polled)
        if ending:
            break
    if not decodes:
        raise InputError(
            f"{out}: there was nothing to record: no step in {time.monotonic() - started_s:.0f} s; "
            "send the server requests meanwhile, as `dspark load` does"
        )
    about = chosen.about(lost)
    writer.close(about)
    return Recorded(out, decodes, prefills, segments, time.monotonic() - started_s, unanswered, chosen.restarts, about)
