"""Names that must be keys of a registry when they are validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, eq=False)
class KeyOf:
    """Annotation of a string that must be a key of ``registry``, as ``Annotated[str, KeyOf(GPUS)]``.

    The registry is read at validation, so a member needs no second list of names beside it. The JSON schema has the
    keys as an enumeration.
    """

    registry: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self.registry), "type": "string"}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            *names, last = map(repr, self.registry)
            expected = f"{', '.join(names)} or {last}" if names else last
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return name
