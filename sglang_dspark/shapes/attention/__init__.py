"""Token mixers of layers, one kind per file.

A new kind is a file here with a subclass of :class:`Attention`, and a member of ``_Kinds``.
"""

from __future__ import annotations

from typing import Annotated, Final, get_args

from pydantic import Field

from sglang_dspark.shapes.attention.base import Attention
from sglang_dspark.shapes.attention.compressed import CompressedLatent
from sglang_dspark.shapes.attention.gated_delta import GatedDelta
from sglang_dspark.shapes.attention.grouped_query import GroupedQuery
from sglang_dspark.shapes.attention.kimi_delta import KimiDelta
from sglang_dspark.shapes.attention.latent import Latent
from sglang_dspark.shapes.attention.lightning import Lightning
from sglang_dspark.shapes.attention.mamba1 import Mamba1
from sglang_dspark.shapes.attention.mamba2 import Mamba2
from sglang_dspark.shapes.attention.short_conv import ShortConv

# The first kind that claims a layer of a config reads it.
_Kinds = CompressedLatent | Latent | GroupedQuery | GatedDelta | KimiDelta | Mamba1 | Mamba2 | Lightning | ShortConv

AnyAttention = Annotated[_Kinds, Field(discriminator="kind")]
KINDS: Final[tuple[type[Attention], ...]] = get_args(_Kinds)
