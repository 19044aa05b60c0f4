"""Capacity planning: how many GPUs a traffic and its service levels need, on which hardware, with which settings."""

from __future__ import annotations

from dspark_tuning.plan.question import Question, load
from dspark_tuning.plan.run import Planned, plan, stages

__all__ = ["Planned", "Question", "load", "plan", "stages"]
