"""Token mixers, one kind a file. A new one is a file here, and a line in :data:`KINDS` and :data:`AnyAttention`."""

from __future__ import annotations

from typing import Annotated, Final

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

AnyAttention = Annotated[
    CompressedLatent | Latent | GroupedQuery | GatedDelta | KimiDelta | Mamba1 | Mamba2 | Lightning | ShortConv,
    Field(discriminator="kind"),
]
# The first that claims a layer reads it.
KINDS: Final[tuple[type[Attention], ...]] = (
    CompressedLatent, Latent, GroupedQuery, GatedDelta, KimiDelta, Mamba1, Mamba2, Lightning, ShortConv,
)  # fmt: skip
