"""Calibration: simulator parameters from the recording of a live server."""
