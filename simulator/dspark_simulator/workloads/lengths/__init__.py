"""Prompt and output lengths in tokens.

A new distribution is a file here with a subclass of :class:`LengthDistribution`, and a member of ``Lengths``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dspark_simulator.workloads.lengths.base import LengthDistribution
from dspark_simulator.workloads.lengths.empirical import Empirical
from dspark_simulator.workloads.lengths.fixed import Fixed
from dspark_simulator.workloads.lengths.lognormal import Lognormal
from dspark_simulator.workloads.lengths.uniform import Uniform

Lengths = Annotated[Fixed | Uniform | Lognormal | Empirical, Field(discriminator="kind")]

__all__ = ["Empirical", "Fixed", "LengthDistribution", "Lengths", "Lognormal", "Uniform"]
