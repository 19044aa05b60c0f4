"""Capacity planning: hardware, number of GPUs and settings for given traffic and service levels."""

from __future__ import annotations

from dspark_tuning.planning.plan import Planned, plan, stages
from dspark_tuning.planning.question import Question, load, of_model

__all__ = ["Planned", "Question", "load", "of_model", "plan", "stages"]
