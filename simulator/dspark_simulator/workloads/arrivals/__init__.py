"""Arrival processes.

A new process is a file here with a subclass of :class:`ArrivalProcess`, and a member of ``Arrivals``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dspark_simulator.workloads.arrivals.base import ArrivalProcess
from dspark_simulator.workloads.arrivals.closed import Closed
from dspark_simulator.workloads.arrivals.gamma import Gamma
from dspark_simulator.workloads.arrivals.poisson import Poisson
from dspark_simulator.workloads.arrivals.trace import Trace
from dspark_simulator.workloads.arrivals.varying import Varying

Arrivals = Annotated[Poisson | Gamma | Varying | Closed | Trace, Field(discriminator="kind")]

__all__ = ["ArrivalProcess", "Arrivals", "Closed", "Gamma", "Poisson", "Trace", "Varying"]
