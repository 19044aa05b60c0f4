"""Measurements of real servers: recording, load, calibration, validation."""
