"""Result files of serving benchmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dspark_simulator.workloads.traces.base import Batch, TraceFormat
from dspark_simulator.workloads.traces.settings import TraceSettings
from dspark_simulator.workloads.traces.source import Source
from sglang_dspark.errors import InputError


class Bench(TraceFormat):
    """Results of ``sglang.bench_serving --output-details`` and ``vllm bench serve --save-detailed``: arrays of lengths.

    vLLM's may have start times; SGLang's have a rate at which the requests were sent at random. SGLang appends a line
    for each run: one file is one run's, or several at the same rate.
    """

    name = "bench"
    title = "benchmark result"

    def __init__(self, source: Source, settings: TraceSettings) -> None:
        super().__init__(source, settings)
        self._rates: set[float | None] = set()

    @classmethod
    def recognises(cls, names: Sequence[str], first: dict[str, Any]) -> bool:
        return "total_input_tokens" in first and ("request_throughput" in first or "input_lens" in first)

    @property
    def rate_per_s(self) -> float | None:
        return next(iter(self._rates)) if len(self._rates) == 1 else None

    def batches(self, extra: Sequence[str]) -> Iterator[Batch]:
        runs, end_s, timed = 0, 0.0, False
        for run in self.source.records():
            where = f"{self.source.path}: run {runs + 1}"
            batch = _requests(run, where)
            if runs and timed != (batch.time_s is not None):
                raise InputError(f"{where}: only some runs have start_times; give runs of one kind")
            if batch.time_s is not None:
                timed = True
                # Runs follow each other.
                batch = batch._replace(time_s=batch.time_s - np.nanmin(batch.time_s) + end_s)
                end_s = float(np.nanmax(batch.time_s)) if batch.time_s is not None else end_s
            self._rates.add(_rate(run))
            runs += 1
            yield batch
        self.notes = [f"{runs} runs"] if runs > 1 else []


def _requests(run: dict[str, Any], where: str) -> Batch:
    lengths = {}
    for name in ("input_lens", "output_lens"):
        values = run.get(name)
        if not isinstance(values, list):
            raise InputError(
                f"{where}: {name}: missing; run the benchmark with details "
                "(sglang.bench_serving --output-details, vllm bench serve --save-detailed)"
            )
        lengths[name] = np.array([math.nan if value is None else value for value in values], np.float64)
    count = len(lengths["input_lens"])
    optional = {name: run.get(name) or [] for name in ("start_times", "errors", "cached_tokens")}
    for name, values in {**lengths, **optional}.items():
        if len(values) not in (0, count):
            raise InputError(f"{where}: {name}: has {len(values)} values for {count} requests; give a whole result")
    times, errors, cached = optional["start_times"], optional["errors"], optional["cached_tokens"]
    failed = np.array([bool(error) for error in errors]) if errors else np.zeros(count, np.bool_)
    return Batch(
        lengths["input_lens"],
        lengths["output_lens"],
        np.array(times, np.float64) if times else None,
        np.array(cached, np.float64) if cached else None,
        failed=failed | (lengths["output_lens"] == 0),
    )


def _rate(run: dict[str, Any]) -> float | None:
    """The rate of a run; None if it sent all at once, or kept a number of requests in flight."""
    try:
        rate = float(run.get("request_rate", math.inf))
    except (TypeError, ValueError):
        return None
    return rate if 0 < rate < math.inf and run.get("max_concurrency") is None else None
