"""The trace formats, in the order in which a file is tried."""

from __future__ import annotations

from dspark_simulator.workloads.traces.azure import Azure
from dspark_simulator.workloads.traces.bailian import Bailian
from dspark_simulator.workloads.traces.base import TraceFormat
from dspark_simulator.workloads.traces.bench import Bench
from dspark_simulator.workloads.traces.burstgpt import BurstGpt
from dspark_simulator.workloads.traces.chats import Chats
from dspark_simulator.workloads.traces.mooncake import Mooncake
from dspark_simulator.workloads.traces.own import Own
from dspark_simulator.workloads.traces.plain import Plain
from dspark_simulator.workloads.traces.vidur import Vidur

FORMATS: dict[str, type[TraceFormat]] = {
    member.name: member for member in (Plain, Azure, BurstGpt, Bailian, Mooncake, Vidur, Bench, Chats, Own)
}
