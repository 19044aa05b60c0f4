"""Base classes of shapes: field types, and the storage of weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sglang_dspark.shapes.gpus import Arithmetic

Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stored(Shape):
    """Storage and arithmetic of weights.

    Attributes:
        format: Format of their multiplications; a GPU without it multiplies in bf16.
        bytes_per_weight: Bytes of a weight including scales, such as 0.53125 for MXFP4.
    """

    format: Arithmetic = "bf16"
    bytes_per_weight: Bytes = 2.0


class Layers(Stored):
    """A group of identical layers, or of identical parts of layers.

    Attributes:
        layers: Number of the model's layers that have this part.
    """

    layers: Count
