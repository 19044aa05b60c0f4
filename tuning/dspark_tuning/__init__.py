"""Tuning of the DSpark verification policy in the simulator, and the ``dspark`` command."""

__version__ = "0.1.0"
