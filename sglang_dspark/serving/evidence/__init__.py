"""Benchmarks, traffic counts and version checks behind the documentation; no server loads them."""
