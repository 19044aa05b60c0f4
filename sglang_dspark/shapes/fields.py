"""Look-up of fields of a ``config.json`` by their alternative names, with a record of missing and unread fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sglang_dspark.errors import InputError

MISSING: Final = object()
# Fields that may have a value for each layer, and the names of those lists.
_BY_LAYER: Final = {
    "indexer_types": "indexer_types",
    "num_attention_heads": "num_attention_heads_per_layer",
    "num_key_value_heads": "num_key_value_heads_per_layer",
}


class Fields:
    """Fields of a config.

    Attributes:
        source: The file, for messages.
        config: The decoder's fields, completed by those of the whole config.
        read: Names that were looked up.
        missing: Required fields that are absent, alternatives joined by "or".
        kv_bytes: Bytes of an element of the KV cache.
        where: The mapping within the file, for messages: empty or ``text_config.``.
        notes: Assumptions made while reading, for reports.
    """

    # Remedy for an unsupported layout. No message says how to make its config look like a supported one.
    remedy = "plan from a profile that was measured on a server of this model"

    def __init__(self, source: Path | str, config: Mapping[str, Any], kv_bytes: float = 2.0, where: str = "") -> None:
        self.source, self.config, self.kv_bytes, self.where = source, dict(config), kv_bytes, where
        self.read: set[str] = set()
        self.missing: list[str] = []
        self.notes: list[str] = []

    def __contains__(self, name: str) -> bool:
        return self.has(name)

    def has(self, *names: str) -> bool:
        """Whether any of ``names`` has a value."""
        self.read.update(names)
        return any(self.config.get(name) is not None for name in names)

    def get(self, *names: str, default: Any = MISSING) -> Any:
        """Value of the first of ``names`` that has one; without a value and a default, they count as missing."""
        self.read.update(names)
        for name in names:
            if self.config.get(name) is not None:
                return self.config[name]
        if default is MISSING:
            alternatives = self.where + " or ".join(names)
            if alternatives not in self.missing:
                self.missing.append(alternatives)
            return None
        return default

    def number(self, *names: str, default: Any = MISSING, null: bool = False, zero: bool = False) -> Any:
        """A whole number of at least 1.

        Args:
            null: A field that is present and null is None, not missing.
            zero: 0 is valid.
        """
        if null and any(name in self.config and self.config[name] is None for name in names):
            self.read.update(names)
            return None
        value = self.get(*names, default=default)
        if value is default:
            return value
        if value is None:
            return 1
        if isinstance(value, str) and value == "auto" and default is not MISSING:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 0:
            raise self.wrong(names, "give a whole number")
        if value == 0 and not zero:
            if default is not MISSING:
                return default
            raise self.wrong(names, "give a whole number of at least 1")
        return int(value)

    def flag(self, *names: str, default: bool = False) -> bool:
        """A field that is true or false."""
        value = self.get(*names, default=default)
        if not isinstance(value, bool):
            raise self.wrong(names, "give true or false")
        return value

    def listed(self, *names: str) -> list[Any] | None:
        """A list with an entry for each layer; entries beyond ``num_hidden_layers``, of draft layers, are dropped."""
        value = self.get(*names, default=None)
        if value is None:
            return None
        if isinstance(value, str):
            value = list(value)
        if not isinstance(value, list):
            raise self.wrong(names, "give a list with an entry for each layer")
        layers = self.layers
        if len(value) < layers and not self.missing:
            raise self.wrong(names, f"it has {len(value)} entries for {layers} layers; give one for each")
        return value[:layers]

    @property
    def layers(self) -> int:
        listed = self.get("layers_block_type", default=None)
        default = len(listed) if isinstance(listed, list) else MISSING
        return int(self.number("num_hidden_layers", "n_layer", "num_layers", default=default))

    @property
    def state_bytes(self) -> float:
        """Bytes of an element of a recurrent state: float32 in SGLang unless the config sets another type."""
        dtype = str(self.get("mamba_ssm_dtype", "mamba_ssm_cache_dtype", default="float32")).removeprefix("torch.")
        return 2.0 if dtype in ("bfloat16", "float16") else 4.0

    def of_layer(self, layer: int) -> Fields:
        """The fields of one layer, with its own values where the config lists values by layer."""
        overrides = self.get("per_layer_config", default=None) or {}
        own = next((dict(values) for key, values in overrides.items() if int(key) == layer), {})
        for name, listed in _BY_LAYER.items():
            values = self.listed(listed)
            if values is not None:
                own[name] = values[layer]
        if not own:
            return self
        fields = Fields(self.source, {**self.config, **own}, self.kv_bytes, self.where)
        fields.read, fields.missing, fields.notes = self.read, self.missing, self.notes
        return fields

    def inner(self, name: str) -> Fields:
        """The fields of a nested mapping; fields missing there are missing here."""
        self.read.add(name)
        value = self.config.get(name)
        if not isinstance(value, Mapping):
            raise self.wrong((name,), "give a mapping of fields")
        inner = Fields(self.source, value, self.kv_bytes, f"{self.where}{name}.")
        inner.missing = self.missing
        return inner

    def wrong(self, names: tuple[str, ...], remedy: str) -> InputError:
        """Error for a field that is present and invalid."""
        name = next((one for one in names if self.config.get(one) is not None), names[0])
        return InputError(f"{self.source}: {self.where}{name}: {short(self.config.get(name))} is not valid; {remedy}")


def mapping(source: Path | str, name: str, value: Any) -> Mapping[str, Any]:
    """Check that a field's value is a mapping and return it."""
    if not isinstance(value, Mapping):
        raise InputError(f"{source}: {name}: {short(value)} is not valid; give a mapping of fields")
    return value


def short(value: object, limit: int = 60) -> str:
    """Shortened representation of a value, for messages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
