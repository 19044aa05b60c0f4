"""What is known of a row's model and GPU by their names."""

from __future__ import annotations

from dspark_simulator.acceptance_model import packaged
from dspark_tuning.measuring.validate.published_rows import PublishedRow
from sglang_dspark.errors import InputError
from sglang_dspark.shapes.gpus import GPUS, Gpu
from sglang_dspark.shapes.known import Known, known, names


def shapes(row: PublishedRow) -> Known:
    """The shapes of the row's model.

    Raises:
        InputError: It or the row's GPU is not known.
    """
    found = known(row.model)
    if found is None:
        raise InputError(f"{row.where}: model: {row.model!r} is not known; known are {', '.join(names())}")
    gpu(row)
    return found


def gpu(row: PublishedRow) -> Gpu:
    """The row's GPU.

    Raises:
        InputError: It is not known.
    """
    for name, found in GPUS.items():
        if name == row.hardware:
            return found
    raise InputError(f"{row.where}: hardware: {row.hardware!r} is not known; known are {', '.join(GPUS)}")


def block(row: PublishedRow) -> int:
    """Drafts a block where the row does not say: those of its model's draft; of a model without any, what it verifies.

    Raises:
        InputError: The row drafts more than the acceptance model describes, or nobody says how much.
    """
    # Published servers draft more than the block of the checkpoint.
    most = packaged().gamma
    if row.gamma is not None and row.gamma > most:
        raise InputError(f"{row.where}: gamma: {row.gamma} is beyond the acceptance model's block; give at most {most}")
    found = known(row.model)
    if found is not None:
        return found.draft.block
    if row.gamma is None:
        raise InputError(f"{row.where}: gamma: not given, and the draft of {row.model!r} is not known; give it")
    return row.gamma or most


def is_mixture(row: PublishedRow) -> bool:
    """Whether the row's model is known to be a mixture of experts."""
    found = known(row.model)
    return found is not None and found.model.is_mixture


def is_neighbour(row: PublishedRow, other: PublishedRow) -> bool:
    """Whether two rows are of models of one kind, dense or mixture of experts, on the same hardware."""
    return row.hardware == other.hardware and is_mixture(row) == is_mixture(other)


def is_namesake(row: PublishedRow, other: PublishedRow) -> bool:
    """Whether two rows are of the same model."""
    return known(row.model) is not None and known(row.model) == known(other.model)
