"""Results of a simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from dspark_simulator.histogram import quantile
from dspark_simulator.state import Record
from dspark_simulator.workloads import RequestClass


class Latency(NamedTuple):
    """Mean and percentiles in seconds; NaN where nothing was observed."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


# The backlog's growth is tested over this many equal parts of a run, and is significant beyond this many standard
# errors: the 90 % quantile of Student's t.
PARTS = 20
SIGNIFICANT = float(stdtrit(PARTS - 1, 0.9))


class ClassResult(NamedTuple):
    """Measured requests of one class.

    Attributes:
        requests: All requests of the class, including aborted and unfinished ones.
        good: Requests finished within both SLOs.
        attainment: Their share.
        goodput_per_s: Their number per second of the window.
        ttft, tpot, itl: Latencies of the finished requests.
    """

    name: str
    requests: int
    good: int
    aborted: int
    attainment: float
    goodput_per_s: float
    ttft: Latency
    tpot: Latency
    itl: Latency


class Result(NamedTuple):
    """Result of a run: rates over the measuring window, latencies of the measured requests.

    Attributes:
        saturated: The backlog grew through the run (:func:`grows`), so all figures depend on the length of the run.
        backlog_growth: Growth of the requests in the system from the first to the last measured arrival.
        attainment: Share of the measured requests that met their class's TTFT and TPOT; aborted and unfinished requests
            count as missed.
        ttft_attainment: The same for TTFT only.
        window_s: Time from the arrival of the first measured request to that of the first request after them.
        throughput_tok_s: Output tokens in the window, per second.
        goodput_per_s: Measured requests that met their class's TTFT and TPOT, per second of the window.
        goodput_tok_s: Their output tokens, per second of the window.
        accepted_length: Tokens per round and request, including the target's own.
        verify_length: Drafts verified per round and request.
        utilisation: Share of the window in which a step ran, mean over replicas.
        running, kv_use: Decoding requests and used share of the KV pool, means over busy time.
        queued: Requests that wait or whose prompt is being prefilled, mean over the window.
        unfinished: Measured requests that were not finished at the end of the run.
    """

    saturated: bool
    backlog_growth: int
    attainment: float
    ttft_attainment: float
    window_s: float
    simulated_s: float
    throughput_tok_s: float
    goodput_per_s: float
    goodput_tok_s: float
    ttft: Latency
    tpot: Latency
    itl: Latency
    accepted_length: float
    verify_length: float
    utilisation: float
    running: float
    queued: float
    kv_use: float
    steps: int
    mean_step_s: float
    eager_steps: int
    retracted: int
    aborted: int
    unfinished: int
    requests: int
    classes: tuple[ClassResult, ...]

    def row(self) -> dict[str, float]:
        """All fields except the classes as one flat row, with names such as ``ttft_p90_s``."""
        row: dict[str, float] = {}
        for field, value in zip(self._fields, self, strict=True):
            if isinstance(value, Latency):
                row |= {f"{field}_{name}": part for name, part in zip(value._fields, value, strict=True)}
            elif isinstance(value, int | float):
                row[field] = value
        return row


class Snapshot(NamedTuple):
    """Counters at a point in time: METRICS [replicas], and the integral of requests in the system over time."""

    at_s: float
    metrics: Record
    requests_s: float


def grows(backlog: Sequence[int]) -> bool:
    """Whether the backlog of an open loop grows significantly through a run.

    A one-sided t test of the changes from part to part of the run. A temporary backlog, by chance or after a burst, has
    changes that cancel, so their sum is small relative to their spread: below capacity the test errs far less often
    than its level. Overload adds to every part.

    Args:
        backlog: Requests in the system at each arrival of the run, warm-up included; too few are never significant.
            Filling the empty system at the start is one change, which alone is not significant.
    """
    if len(backlog) <= PARTS:
        return False
    ends = np.linspace(0, len(backlog) - 1, PARTS + 1).astype(int)
    changes = np.diff(np.asarray(backlog)[ends])
    return bool(changes.mean() > SIGNIFICANT * changes.std(ddof=1) / math.sqrt(PARTS))


def summarise(
    classes: tuple[RequestClass, ...],
    opened: Snapshot,
    closed: Snapshot,
    metrics: Record,
    requests: Sequence[int],
    backlog: Sequence[int],
    first: int,
    open_loop: bool,
    simulated_s: float,
    kv_tokens: int,
) -> Result:
    """Compute the result of a run.

    Args:
        opened, closed: Start and end of the measuring window.
        metrics: METRICS [replicas] at the end of the run.
        requests: Measured requests by class.
        backlog: Requests in the system at each arrival.
        first: First measured request.
        open_loop: Arrivals do not wait for the server, so the backlog can grow without limit.
        kv_tokens: KV pool of a replica.
    """
    window_s = closed.at_s - opened.at_s

    def window(field: str) -> Any:
        return (closed.metrics[field] - opened.metrics[field]).sum(axis=0)

    def over(value: float, base: float) -> float:
        return float(value / base) if base > 0 else math.nan

    finished, good, aborted = (metrics[name].sum(axis=0) for name in ("finished", "good", "aborted"))
    total = sum(requests)
    rounds = int(window("request_rounds"))
    busy_s = float(window("busy_s"))
    lengths = window("accepted_length")
    accepted = int((lengths * np.arange(len(lengths))).sum())
    return Result(
        saturated=open_loop and grows(backlog),
        backlog_growth=backlog[-1] - backlog[first],
        attainment=over(int(good.sum()), total),
        ttft_attainment=over(int(metrics["in_ttft"].sum()), total),
        window_s=window_s,
        simulated_s=simulated_s,
        throughput_tok_s=over(int(window("tokens")), window_s),
        goodput_per_s=over(int(good.sum()), window_s),
        goodput_tok_s=over(int(metrics["good_tokens"].sum()), window_s),
        ttft=_latency(metrics, "ttft", float(metrics["ttft_sum_s"].sum()), int(finished.sum())),
        tpot=_latency(metrics, "tpot", float(metrics["tpot_sum_s"].sum()), int(metrics["tpot_count"].sum())),
        itl=_latency(metrics, "itl", math.nan, 0),
        accepted_length=over(accepted, rounds),
        verify_length=over(int(window("verified")) - rounds, rounds),
        utilisation=over(busy_s, window_s * len(metrics)),
        running=over(float(window("running_s")), busy_s),
        queued=over(closed.requests_s - opened.requests_s - float(window("running_s")), window_s),
        kv_use=over(float(window("kv_s")), busy_s * kv_tokens),
        steps=int(window("steps")),
        mean_step_s=over(busy_s, int(window("steps"))),
        eager_steps=int(window("eager")),
        retracted=int(window("retracted")),
        aborted=int(aborted.sum()),
        unfinished=total - int(finished.sum()) - int(aborted.sum()),
        requests=total,
        classes=tuple(
            ClassResult(
                name=spec.name,
                requests=requests[i],
                good=int(good[i]),
                aborted=int(aborted[i]),
                attainment=over(int(good[i]), requests[i]),
                goodput_per_s=over(int(good[i]), window_s),
                ttft=_latency(metrics, "ttft", float(metrics["ttft_sum_s"][:, i].sum()), int(finished[i]), i),
                tpot=_latency(
                    metrics, "tpot", float(metrics["tpot_sum_s"][:, i].sum()), int(metrics["tpot_count"][:, i].sum()), i
                ),
                itl=_latency(metrics, "itl", math.nan, 0, i),
            )
            for i, spec in enumerate(classes)
        ),
    )


def _latency(metrics: Record, field: str, total_s: float, count: int, klass: int | None = None) -> Latency:
    """Percentiles of a histogram field over replicas, and over classes if ``klass`` is None."""
    counts = metrics[field].sum(axis=0)
    counts = counts.sum(axis=0) if klass is None else counts[klass]
    mean_s = total_s / count if count else math.nan
    return Latency(mean_s, *(quantile(counts, q) for q in (0.5, 0.9, 0.99)))
