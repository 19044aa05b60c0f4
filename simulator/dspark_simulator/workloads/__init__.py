"""Workloads: arrival processes, request classes, length distributions, and the requests that they generate."""

from __future__ import annotations

from dspark_simulator.workloads.arrivals import ArrivalProcess, Arrivals, Closed, Gamma, Poisson, Trace, Varying
from dspark_simulator.workloads.lengths import Empirical, Fixed, LengthDistribution, Lengths, Lognormal, Uniform
from dspark_simulator.workloads.request_class import RequestClass, Slo
from dspark_simulator.workloads.workload import REQUEST, Request, Workload

__all__ = [
    "REQUEST",
    "ArrivalProcess",
    "Arrivals",
    "Closed",
    "Empirical",
    "Fixed",
    "Gamma",
    "LengthDistribution",
    "Lengths",
    "Lognormal",
    "Poisson",
    "Request",
    "RequestClass",
    "Slo",
    "Trace",
    "Uniform",
    "Varying",
    "Workload",
]
