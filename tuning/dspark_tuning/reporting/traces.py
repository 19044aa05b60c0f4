"""Tables of request traces."""

from __future__ import annotations

from collections.abc import Sequence

from dspark_tuning.measuring.traces.statistics import Lengths, TraceFigures
from dspark_tuning.reporting.table import Table


def tables(trace: TraceFigures) -> list[Table]:
    """What a trace holds, and the lengths of its classes."""
    rows = [
        _lengths("Prompt, tokens", trace.prompt),
        _lengths("Output, tokens", trace.output),
        *(
            _lengths(f"{field}, {one.name} ({one.share:.1%})", lengths)
            for one in trace.classes
            for field, lengths in (("Prompt", one.prompt), ("Output", one.output))
        ),
    ]
    return [
        Table("Arrivals", ["", "Value"], list(zip(_NAMES, _values(trace), strict=True))),
        Table("Lengths", ["", "Mean", "p50", "p90", "p99", "Max"], rows),
    ]


def compared(whole: TraceFigures, part: TraceFigures) -> Table:
    """A trace beside a sample of it."""
    return Table("Sample", ["", "Trace", "Sample"], list(zip(_NAMES + _MEANS, _all(whole), _all(part), strict=True)))


_NAMES = [
    "Requests",
    "Span, s",
    "Requests/s",
    "Variation of gaps (CV; 1 is Poisson)",
    "Busiest minute, requests/s",
    "Prefix hits, share of prompt tokens",
]
_MEANS = ["Mean prompt, tokens", "Mean output, tokens"]


def _values(trace: TraceFigures) -> list[str]:
    return [
        f"{trace.requests:,}",
        f"{trace.span_s:,.1f}",
        f"{trace.rate_per_s:.4g}",
        f"{trace.gap_cv:.3f}",
        "-" if trace.peak_per_s is None else f"{trace.peak_per_s:.4g}",
        "not in the file" if trace.hit_share is None else f"{trace.hit_share:.1%}",
    ]


def _all(trace: TraceFigures) -> list[str]:
    return [*_values(trace), f"{trace.prompt.mean:,.1f}", f"{trace.output.mean:,.1f}"]


def _lengths(name: str, lengths: Lengths) -> Sequence[str]:
    return [name, f"{lengths.mean:,.1f}", *(f"{n:,.0f}" for n in (lengths.p50, lengths.p90, lengths.p99, lengths.max))]
