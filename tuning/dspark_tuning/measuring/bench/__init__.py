"""Benchmarks of the simulator and of tuning."""
