"""Benchmarks of the project's own promises: the simulator's speed and the tuned policy's gain."""
