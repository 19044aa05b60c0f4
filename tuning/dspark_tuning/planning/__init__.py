"""Capacity planning: how many GPUs a traffic and its service levels need, on which hardware, with which settings."""

from __future__ import annotations

from dspark_tuning.planning.plan import Planned, plan, stages
from dspark_tuning.planning.question import Question, load

__all__ = ["Planned", "Question", "load", "plan", "stages"]
