"""Traces and logs of requests, read from the files that people have.

A new format is a file here with a subclass of :class:`TraceFormat`, mostly of :class:`Table` with its column names, and
an entry of ``FORMATS``, in which the first that recognises a file reads it.
"""

from __future__ import annotations

from dspark_simulator.workloads.traces.base import TraceFormat
from dspark_simulator.workloads.traces.formats import FORMATS
from dspark_simulator.workloads.traces.reading import AS_READ, read_trace
from dspark_simulator.workloads.traces.rows import TraceRows
from dspark_simulator.workloads.traces.settings import TraceSettings

__all__ = ["AS_READ", "FORMATS", "TraceFormat", "TraceRows", "TraceSettings", "read_trace"]
