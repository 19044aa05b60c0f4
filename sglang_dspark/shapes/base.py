"""What all shapes have in common: field types, and how weights are stored."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sglang_dspark.shapes.gpus import Arithmetic

Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stored(Shape):
    """How weights are stored and multiplied.

    Attributes:
        format: Of their multiplications; a GPU without it multiplies in bf16.
        bytes_per_weight: Including scales: 0.53125 for MXFP4.
    """

    format: Arithmetic = "bf16"
    bytes_per_weight: Bytes = 2.0


class Layers(Stored):
    """A number of alike layers, or parts of layers.

    Attributes:
        layers: How many of the model's layers have this part.
    """

    layers: Count
