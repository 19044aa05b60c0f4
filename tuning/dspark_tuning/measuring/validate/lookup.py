"""Model and GPU of a row by name."""

from __future__ import annotations

from dspark_simulator.acceptance_model import packaged
from dspark_tuning.measuring.validate.published_rows import PublishedRow
from sglang_dspark.errors import InputError
from sglang_dspark.shapes.gpus import GPUS, Gpu
from sglang_dspark.shapes.known import Known, known, unknown


def shapes(row: PublishedRow) -> Known:
    """Shapes of the model of a row.

    Raises:
        InputError: The model or the GPU is not known.
    """
    shapes_of_model = known(row.model)
    if shapes_of_model is None:
        raise unknown(row.model, f"{row.where}: model")
    gpu(row)
    return shapes_of_model


def gpu(row: PublishedRow) -> Gpu:
    """GPU of a row.

    Raises:
        InputError: The GPU is not known.
    """
    for name, listed in GPUS.items():
        if name == row.hardware:
            return listed
    raise InputError(f"{row.where}: hardware: {row.hardware!r} is not known; known are {', '.join(GPUS)}")


def block(row: PublishedRow) -> int:
    """Block size of a row that does not state it: that of the draft of its model, else the drafts that it verifies.

    Raises:
        InputError: A block beyond the acceptance model, or an unknown one.
    """
    # Published servers may draft more than the block of the checkpoint.
    most = packaged().gamma
    if row.gamma is not None and row.gamma > most:
        raise InputError(f"{row.where}: gamma: {row.gamma} is beyond the acceptance model's block; give at most {most}")
    shapes_of_model = known(row.model)
    if shapes_of_model is not None:
        return shapes_of_model.assumed_draft.block
    if row.gamma is None:
        raise InputError(f"{row.where}: gamma: not given, and the draft of {row.model!r} is not known; give it")
    return row.gamma or most


def is_mixture(row: PublishedRow) -> bool:
    """Whether the row's model is known to be a mixture of experts."""
    shapes_of_model = known(row.model)
    return shapes_of_model is not None and shapes_of_model.model.is_mixture


def is_neighbour(row: PublishedRow, other: PublishedRow) -> bool:
    """Whether two rows have the same hardware and the same kind of model, dense or mixture of experts."""
    return row.hardware == other.hardware and is_mixture(row) == is_mixture(other)


def is_namesake(row: PublishedRow, other: PublishedRow) -> bool:
    """Whether two rows have the same model."""
    one, another = known(row.model), known(other.model)
    return one is not None and another is not None and one.name == another.name
