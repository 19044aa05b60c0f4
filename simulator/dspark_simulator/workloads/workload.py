"""Workloads: a stream of requests with arrival times, classes and lengths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from dspark_simulator.draws import OUTPUT, PREFIX, PROMPT, SLO_CLASS
from dspark_simulator.workloads.arrivals import Arrivals
from dspark_simulator.workloads.lengths import Empirical, LengthDistribution
from dspark_simulator.workloads.model import Described
from dspark_simulator.workloads.request_class import RequestClass
from dspark_simulator.workloads.sampling import FloatArray, IntArray, uniforms
from sglang_dspark.errors import InputError, validated

# Requests of a trace that stand for all of its lengths.
SAMPLE: Final = 2048


class Request(NamedTuple):
    """A request in numbers.

    Attributes:
        arrival_s: 0 in a closed loop.
        prompt, output: Tokens.
        slo_class: Index of its class in the workload.
        cached: Prompt tokens in the prefix cache.
    """

    id: int
    arrival_s: float
    prompt: int
    output: int
    slo_class: int
    cached: int


REQUEST: np.dtype[np.void] = np.dtype(
    [(name, "f8" if name == "arrival_s" else "i8") for name in Request._fields], align=True
)
"""The same as a record, for arrays of requests."""


class Workload(Described):
    """An endless stream of requests of one or more classes.

    All fields of a request except its arrival are pure functions of (seed, id), and arrivals are running sums of gaps
    that are. A stream with another rate or number of clients therefore has the same requests.

    Attributes:
        arrivals: When requests arrive.
        classes: Classes of requests, which differ in lengths, domain and service level.
    """

    arrivals: Arrivals
    classes: tuple[RequestClass, ...] = Field(min_length=1)

    @field_validator("classes")
    @classmethod
    def _named_once(cls, classes: tuple[RequestClass, ...]) -> tuple[RequestClass, ...]:
        name, times = Counter(spec.name for spec in classes).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{times} classes are named {name!r}; give each class its own name")
        return classes

    @model_validator(mode="after")
    def _has_lengths(self) -> Workload:
        if not self.arrivals.has_lengths:
            for spec in self.classes:
                if spec.prompt is None or spec.output is None:
                    raise ValueError(
                        f"class {spec.name!r} has no prompt or no output lengths; only a trace has its own"
                    )
        known = [spec.name for spec in self.classes]
        for name in self.arrivals.class_names():
            if name not in known:
                raise ValueError(f"the trace has class {name!r}; add it to the classes ({', '.join(known)})")
        return self

    @property
    def clients(self) -> int | None:
        """Clients of a closed loop; None for an open loop."""
        return self.arrivals.concurrency()

    @property
    def rate_per_s(self) -> float:
        """Mean rate of an open loop, requests per second; a closed loop has none."""
        rate_per_s = self.arrivals.mean_rate_per_s
        assert rate_per_s is not None
        return rate_per_s

    def chunks(self, seed: int, size: int = 1024) -> Iterator[NDArray[np.void]]:
        """Endless REQUEST arrays [size] with ids 0, 1, 2, ... in order of arrival (0.0 in a closed loop).

        Rows depend on the seed only, not on ``size``. ``prompt`` and ``output`` are at least 1. ``cached`` is
        ``cached_prefix * prompt``, rounded up or down at random so that the mean is exact, and at most ``prompt - 1``,
        since an engine computes the last position (SGLang's ``Req._compute_max_prefix_len``); of a trace with prefix
        hits, those of an unlimited cache.
        """
        for first, arrival_s in zip(count(0, size), self.arrivals.times(seed, size), strict=False):
            yield self._rows(seed, first, arrival_s)

    def requests(self, seed: int) -> Iterator[Request]:
        """The rows of :meth:`chunks` one by one."""
        return (Request(*row) for chunk in self.chunks(seed) for row in chunk.tolist())

    def class_counts(self, seed: int, first: int, last: int) -> list[int]:
        """Number of requests of each class among the requests ``first`` to ``last - 1``."""
        members = self._classes(seed, first, last - first)
        return [int(count) for count in np.bincount(members, minlength=len(self.classes))]

    def with_rate(self, rate_per_s: float) -> Workload:
        """The same requests at a mean rate of ``rate_per_s``; a closed loop becomes Poisson arrivals.

        Raises:
            InputError: The rate is not positive.
        """
        if not 0 < rate_per_s < math.inf:
            raise InputError(f"workload: rate_per_s: {rate_per_s} is not valid; give a rate above 0")
        return self.model_copy(update={"arrivals": self.arrivals.with_rate(rate_per_s)})

    def scaled(self, rate_factor: float) -> Workload:
        """The same requests arriving ``rate_factor`` times as fast.

        Raises:
            InputError: The factor is not positive, or the loop is closed and has no rate.
        """
        rate_per_s = self.arrivals.mean_rate_per_s
        if rate_per_s is None:
            raise InputError("workload: arrivals: a closed loop has no rate to scale; set its clients")
        if not 0 < rate_factor < math.inf:
            raise InputError(f"workload: rate_factor: {rate_factor} is not valid; give a factor above 0")
        return self.with_rate(rate_per_s * rate_factor)

    def with_clients(self, clients: int) -> Workload:
        """The same requests sent by ``clients`` clients in a closed loop; those of a trace as its own classes.

        Raises:
            InputError: The number is not positive.
        """
        classes = self.with_own_lengths()
        return validated(Workload, {"arrivals": {"kind": "closed", "clients": clients}, "classes": classes}, "workload")

    def with_own_lengths(self) -> tuple[RequestClass, ...]:
        """The classes with lengths.

        Those of a trace get the lengths, shares and prefix hits of its first requests, each prompt and each output as
        often as it occurs there. A class without a request among them is left out.
        """
        if not self.arrivals.has_lengths:
            return self.classes
        rows = next(self.chunks(seed=0, size=SAMPLE))
        classes = []
        for index, spec in enumerate(self.classes):
            own = rows[rows["slo_class"] == index]
            if len(own):
                update = {
                    "share": float(len(own)),
                    "prompt": Empirical(values=tuple(own["prompt"].tolist())),
                    "output": Empirical(values=tuple(own["output"].tolist())),
                    "cached_prefix": float(own["cached"].sum() / own["prompt"].sum()),
                }
                classes.append(spec.model_copy(update=update))
        return tuple(classes)

    def _rows(self, seed: int, first: int, arrival_s: FloatArray) -> NDArray[np.void]:
        size = len(arrival_s)
        rows = np.empty(size, REQUEST)
        rows["id"] = np.arange(first, first + size)
        rows["arrival_s"] = arrival_s
        rows["slo_class"] = self._classes(seed, first, size)
        if self.arrivals.has_lengths:
            rows["prompt"], rows["output"] = self.arrivals.lengths(seed, first, size)
        else:
            rows["prompt"] = _lengths(
                [spec.prompt for spec in self.classes], rows["slo_class"], uniforms(seed, first, size, PROMPT)
            )
            rows["output"] = _lengths(
                [spec.output for spec in self.classes], rows["slo_class"], uniforms(seed, first, size, OUTPUT)
            )
        cached = self.arrivals.cached(seed, first, size)
        if cached is not None:
            rows["cached"] = cached
            return rows
        fraction = np.array([spec.cached_prefix for spec in self.classes])[rows["slo_class"]]
        hit = (fraction * rows["prompt"] + uniforms(seed, first, size, PREFIX)).astype(np.int64)
        rows["cached"] = np.minimum(hit, rows["prompt"] - 1)
        return rows

    def _classes(self, seed: int, first: int, size: int) -> IntArray:
        """int64 [size]: class of each request, by the trace or at random by shares."""
        if names := self.arrivals.class_names():
            place = {spec.name: index for index, spec in enumerate(self.classes)}
            return np.array([place[name] for name in names])[self.arrivals.members(seed, first, size)]
        shares = np.cumsum([spec.share for spec in self.classes])
        return np.searchsorted(shares[:-1] / shares[-1], uniforms(seed, first, size, SLO_CLASS), side="right")


def _lengths(distributions: list[LengthDistribution | None], slo_class: IntArray, u: FloatArray) -> IntArray:
    """int64 [n]: the quantile at ``u`` of the distribution of each request's class."""
    lengths = np.empty(len(u), np.int64)
    for index, distribution in enumerate(distributions):
        assert distribution is not None  # Workload requires lengths unless the arrivals have them.
        members = slo_class == index
        lengths[members] = distribution.quantiles(u[members])
    return lengths
