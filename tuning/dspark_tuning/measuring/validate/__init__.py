"""The simulator against measurements that others published: calibrated on some of them, predicting the rest."""

from dspark_tuning.measuring.validate.validation import Predicted, Validation, validate

__all__ = ["Predicted", "Validation", "validate"]
