"""Export a calibration for an unmodified SGLang: cost table and temperatures in the formats of its own tools."""

from __future__ import annotations

import json

from dspark_simulator.costs import sps_additive
from dspark_simulator.profile import Profile
from dspark_tuning.measuring.calibrate.calibration import Calibrated
from dspark_tuning.measuring.calibrate.confidence import ConfidenceCalibration
from sglang_dspark.errors import InputError
from sglang_dspark.policy.belief import sps_json


def sps_table(profile: Profile) -> str:
    """Cost table for SGLang (``--speculative-dspark-sps-table-path``), up to the largest batch of the server."""
    running = profile.server.max_running_requests
    tokens = running * (profile.server.gamma + 1)
    return sps_json(sps_additive(profile.cost.tabulate(profile.server.gamma), running, tokens)) + "\n"


def sts(calibrated: Calibrated) -> str:
    """Temperatures for SGLang (``--speculative-dspark-confidence-sts-path``), in the format of its ``dspark_sts_fit``.

    Raises:
        InputError: No temperatures were fitted.
    """
    if calibrated.head is None:
        raise InputError(
            "sts: too few whole rounds with confidences; record with the plugin, or on a GPU with "
            "SGLANG_DSPARK_DEBUG_DUMP=all, while every draft is verified"
        )
    return temperatures(calibrated.head, "dspark calibrate")


def temperatures(head: ConfidenceCalibration, dataset: str) -> str:
    """Temperatures of a confidence head fitted to ``dataset``, in the format of SGLang's ``dspark_sts_fit``."""
    content = {
        "temperatures": [float(t) for t in head.temperatures],
        "dataset": dataset,
        "num_samples": head.rounds,
        "ece_before": [float(x) for x in head.ece_before],
        "ece_after": [float(x) for x in head.ece_after],
    }
    return json.dumps(content) + "\n"
