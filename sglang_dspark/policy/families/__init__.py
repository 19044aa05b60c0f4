"""The policy families. A new one is a file here and an entry in :data:`FAMILIES`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Union

from pydantic import Field, PlainValidator, SerializeAsAny, TypeAdapter

from sglang_dspark.policy.families.argmax import Argmax
from sglang_dspark.policy.families.base import Policy
from sglang_dspark.policy.families.fixed import Fixed
from sglang_dspark.policy.families.greedy import Greedy
from sglang_dspark.policy.families.none import NoDraft
from sglang_dspark.policy.families.static import Static
from sglang_dspark.policy.families.threshold import Threshold

__all__ = ["FAMILIES", "AnyPolicy", "Argmax", "Fixed", "Greedy", "NoDraft", "Policy", "Static", "Threshold"]

FAMILIES: Final[dict[str, type[Policy]]] = {
    "none": NoDraft,
    "fixed": Fixed,
    "static": Static,
    "greedy": Greedy,
    "argmax": Argmax,
    "threshold": Threshold,
}
"""Families by the name that ``policy.family`` of an artifact gives."""


def _validate(value: Any) -> Policy:
    """Validate a policy's fields by the family that they name."""
    if isinstance(value, Policy):
        return value
    families: Any = Union[tuple(FAMILIES.values())]  # noqa: UP007
    adapter: TypeAdapter[Policy] = TypeAdapter(Annotated[families, Field(discriminator="family")])
    return adapter.validate_python(value)


AnyPolicy = Annotated[SerializeAsAny[Policy], PlainValidator(_validate)]
"""A policy of any family in :data:`FAMILIES`, as a field of a pydantic model."""
