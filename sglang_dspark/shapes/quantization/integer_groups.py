"""Integer weights in groups, multiplied in bf16: AWQ, GPTQ, AutoRound."""

from __future__ import annotations

from typing import ClassVar, Final

from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.quantization.base import Uniform, excluded, packed

_METHODS: Final = (
    "awq",
    "awq_marlin",
    "gptq",
    "gptq_marlin",
    "auto-round",
    "autoround",
    "auto_round",
    "intel/auto-round",
)


class IntegerGroups(Uniform):
    """Integers of ``bits``, with a 16-bit scale and a zero point per group (always present in packed files)."""

    names: ClassVar[tuple[str, ...]] = ("awq", "gptq", "auto-round")

    @classmethod
    def claims(cls, method: str) -> bool:
        return method in _METHODS

    def __init__(self, fields: Fields) -> None:
        bits = fields.number("bits", "w_bit")
        group = fields.get("group_size", "q_group_size", default=128)
        if not isinstance(group, int):
            raise fields.wrong(("group_size", "q_group_size"), "give a whole number")
        fields.get("zero_point", "sym", default=None)
        left_out = [*excluded(fields), *_negative(fields)]
        super().__init__(packed(bits, group, 2.0, zeros=True), left_out)


def _negative(fields: Fields) -> list[str]:
    """Modules excluded by GPTQModel's ``dynamic`` and AutoRound's ``extra_config``."""
    names = []
    for pattern in fields.get("dynamic", default=None) or {}:
        if not pattern.startswith("-:"):
            raise fields.wrong(("dynamic",), f"a separate format for {pattern} is not supported; {fields.remedy}")
        names.append("re:.*" + pattern.removeprefix("-:").lstrip("^"))
    for name, values in (fields.get("extra_config", default=None) or {}).items():
        bits = values.get("bits", fields.config.get("bits"))
        if bits >= 16:
            names.append(name)
        elif bits != fields.config.get("bits"):
            raise fields.wrong(("extra_config",), f"a separate format for {name} is not supported; {fields.remedy}")
    return names
