"""Validation of the simulator on published measurements: calibrated on some rows, predicting the others."""

from dspark_tuning.measuring.validate.validation import Predicted, Validation, validate

__all__ = ["Predicted", "Validation", "validate"]
