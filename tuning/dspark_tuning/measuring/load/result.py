"""Client-side measurements as a :class:`dspark_simulator.result.Result`, with the same definitions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np

from dspark_simulator.result import ClassResult, Latency, Result, grows
from dspark_tuning.measuring.load.drive import Loaded
from dspark_tuning.measuring.load.request import SentRequest


def result(loaded: Loaded) -> Result:
    """Rates over the measuring window and latencies over the measured requests, as in ``dspark_simulator.result``.

    Failed requests count as aborted. Figures that only the server knows (steps, utilisation, KV pool) are NaN or 0. The
    accepted length is tokens per round, where the last round of an output is cut to the output length.
    """
    measured = [request for request in loaded.requests if request.measured]
    expected = sum(loaded.expected)
    failed = sum(bool(request.error) for request in measured)
    backlog = _backlog(loaded)
    done = [request for request in measured if request.finished]
    window_s = loaded.closed_s - loaded.opened_s
    tokens = sum(int(r.chunk_tokens[_inside(r, loaded)].sum()) for r in loaded.requests)
    good = [request for request in done if _good(request, loaded)]
    rounds = sum(request.rounds for request in done)
    verified = [count for request in done for count in enumerate(request.verify_lengths)]
    waiting = [request.ttft_s for request in loaded.requests if len(request.chunk_s)]
    decoding = [float(r.chunk_s[-1] - r.chunk_s[0]) for r in loaded.requests if len(r.chunk_s)]
    return Result(
        saturated=loaded.clients is None and grows(backlog),
        backlog_growth=backlog[-1] - backlog[0] if backlog else 0,
        attainment=_over(len(good), expected),
        ttft_attainment=_over(sum(_in_ttft(request, loaded) for request in done), expected),
        window_s=window_s,
        simulated_s=loaded.wall_s,
        throughput_tok_s=_over(tokens, window_s),
        goodput_per_s=_over(len(good), window_s),
        goodput_tok_s=_over(sum(request.output_tokens for request in good), window_s),
        ttft=_latency(request.ttft_s for request in done),
        tpot=_latency(request.tpot_s for request in done if request.output_tokens > 1),
        itl=_latency(_gaps(done)),
        accepted_length=_over(sum(request.output_tokens - 1 for request in done), rounds) if rounds else 1.0,
        verify_length=_over(sum(length * n for length, n in verified), sum(n for _, n in verified)),
        utilisation=math.nan,
        running=_over(sum(decoding), loaded.wall_s),
        queued=_over(sum(waiting), loaded.wall_s),
        kv_use=math.nan,
        steps=0,
        mean_step_s=math.nan,
        eager_steps=0,
        retracted=0,
        aborted=failed,
        unfinished=expected - len(done) - failed,
        requests=expected,
        classes=tuple(_of_class(loaded, measured, good, place, window_s) for place in range(len(loaded.classes))),
    )


def _of_class(
    loaded: Loaded, measured: Sequence[SentRequest], good: Sequence[SentRequest], place: int, window_s: float
) -> ClassResult:
    mine = [request for request in measured if request.slo_class == place]
    done = [request for request in mine if request.finished]
    well = sum(request.slo_class == place for request in good)
    return ClassResult(
        name=loaded.classes[place].name,
        requests=loaded.expected[place],
        good=well,
        aborted=sum(bool(request.error) for request in mine),
        attainment=_over(well, loaded.expected[place]),
        goodput_per_s=_over(well, window_s),
        ttft=_latency(request.ttft_s for request in done),
        tpot=_latency(request.tpot_s for request in done if request.output_tokens > 1),
        itl=_latency(_gaps(done)),
    )


def _backlog(loaded: Loaded) -> list[int]:
    """Requests in the system at each measured arrival."""
    sent, ended = (np.sort([getattr(r, field) for r in loaded.requests]) for field in ("sent_s", "ended_s"))
    at_s = np.sort([request.sent_s for request in loaded.requests if request.measured])
    return [int(count) for count in np.searchsorted(sent, at_s) - np.searchsorted(ended, at_s, side="right")]


def _good(request: SentRequest, loaded: Loaded) -> bool:
    slo = loaded.classes[request.slo_class].slo
    return _in_ttft(request, loaded) and (request.output_tokens < 2 or request.tpot_s <= slo.tpot_s)


def _in_ttft(request: SentRequest, loaded: Loaded) -> bool:
    return request.ttft_s <= loaded.classes[request.slo_class].slo.ttft_s


def _inside(request: SentRequest, loaded: Loaded) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.asarray((request.chunk_s > loaded.opened_s) & (request.chunk_s <= loaded.closed_s), np.bool_)


def _gaps(requests: Iterable[SentRequest]) -> list[float]:
    return [float(gap) for request in requests for gap in request.itl_s()]


def _latency(values: Iterable[float]) -> Latency:
    sample = list(values)
    if not sample:
        return Latency(math.nan, math.nan, math.nan, math.nan)
    return Latency(fmean(sample), *(float(x) for x in np.quantile(sample, (0.5, 0.9, 0.99))))


def _over(value: float, base: float) -> float:
    return value / base if base > 0 else math.nan
