"""Base classes of quantisation methods, and matching of the module names that configs include or exclude."""

from __future__ import annotations

import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, Final, NamedTuple

from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.fields import Fields
from sglang_dspark.shapes.gpus import Arithmetic

PLAIN: Final = Stored()

# Names of parts of a layer in configs, and the names used here.
_PARTS: Final = {
    "attn": "self_attn", "attention": "self_attn", "linear_attn": "self_attn", "mamba": "self_attn",
    "block_sparse_moe": "mlp", "feed_forward": "mlp", "moe": "mlp", "ffn": "mlp",
    "shared_expert": "shared_experts", "shared_mlp": "shared_experts", "share_expert": "shared_experts",
    "router": "gate", "fc1_latent_proj": "latent", "fc2_latent_proj": "latent",
    "w1": "gate_proj", "w3": "up_proj", "w2": "down_proj",
}  # fmt: skip
_OF_MLP: Final = {"experts", "gate", "shared_experts", "up_proj", "down_proj", "gate_proj", "latent"}
_PREFIXES: Final = ("model.", "language_model.model.", "model.language_model.", "backbone.", "")


class Module(NamedTuple):
    """A module of a layer.

    Attributes:
        layer: Its layer, from 0.
        part: ``self_attn``, ``mlp``, ``mlp.experts.0`` or ``mlp.shared_experts``.
        name: Within the part.
        spellings: Other names of the first word of ``part``.
    """

    layer: int
    part: str
    name: str
    spellings: tuple[str, ...] = ()

    @property
    def routed(self) -> bool:
        """Whether the module belongs to a routed expert."""
        return "experts" in self.part.split(".")

    def path(self) -> tuple[str, ...]:
        return ("layers", str(self.layer), *self.part.split("."), *self.name.split("."))

    def full_names(self) -> list[str]:
        """Names of the module in checkpoints."""
        first, _, rest = self.part.partition(".")
        parts = [f"{word}.{rest}" if rest else word for word in (first, *self.spellings)]
        shared = [part.replace("shared_experts", "shared_expert") for part in parts if "shared_experts" in part]
        return [f"{p}layers.{self.layer}.{part}.{self.name}" for p, part in product(_PREFIXES, [*parts, *shared])]


class Names:
    """A list of modules as in configs: names, parts of names, wildcards, or regular expressions."""

    def __init__(self, names: Iterable[str]) -> None:
        self.parts: set[tuple[str, ...]] = set()
        self.expressions: list[re.Pattern[str]] = []
        globs = []
        for name in names:
            if name.startswith("re:"):
                self.expressions.append(re.compile(name.removeprefix("re:")))
            elif "*" in name:
                ours = ".".join(_ours(name))
                globs += [ours, f"*.{ours}", f"{ours}.*", f"*.{ours}.*"]
            else:
                self.parts.add(_ours(name))
        self.globs = re.compile("|".join(fnmatch.translate(one) for one in globs)) if globs else None

    def __contains__(self, module: Module) -> bool:
        path = module.path()
        if self.globs is not None and self.globs.match(".".join(path)):
            return True
        ends = range(1, len(path) + 1)
        if any(path[start:end] in self.parts for end in ends for start in range(end)):
            return True
        return bool(self.expressions) and any(
            one.match(name) for one in self.expressions for name in module.full_names()
        )


def _ours(name: str) -> tuple[str, ...]:
    """A module name from its layer on, in the names used here."""
    words = name.split(".")
    if "layers" in words:
        words = words[words.index("layers") :]
    words = [_PARTS.get(word, word) for word in words]
    for i, word in enumerate(words):
        if word == "mixer":
            words[i] = "mlp" if i + 1 < len(words) and words[i + 1] in _OF_MLP else "self_attn"
    return tuple(words)


class Quantization(ABC):
    """Quantisation of a checkpoint: the storage of each module.

    Attributes:
        names: Names of the methods, for messages.
        kv_format: ``fp8`` or ``fp4`` if the checkpoint sets it for the KV cache.
    """

    names: ClassVar[tuple[str, ...]]
    kv_format: str | None = None

    @classmethod
    @abstractmethod
    def claims(cls, method: str) -> bool:
        """Whether the class reads configs with this ``quant_method``."""

    @abstractmethod
    def __init__(self, fields: Fields) -> None:
        """Read a ``quantization_config``."""

    @abstractmethod
    def stored(self, module: Module) -> Stored:
        """Storage of the weights of a linear layer."""


class Uniform(Quantization):
    """One format for all linear layers except those of a list."""

    def __init__(self, stored: Stored, excluded: Sequence[str]) -> None:
        self.format, self.excluded = stored, Names(excluded)

    def stored(self, module: Module) -> Stored:
        return PLAIN if module in self.excluded else self.format


def packed(
    bits: float, group: int | None = None, scale_bytes: float = 2.0, zeros: bool = False, form: Arithmetic = "bf16"
) -> Stored:
    """``bits`` per weight; per ``group`` a scale and, if ``zeros``, a zero point as wide as a weight."""
    each = bits / 8
    if group and group > 0:
        each += (scale_bytes + (bits / 8 if zeros else 0.0)) / group
    return Stored(format=form, bytes_per_weight=each)


def excluded(fields: Fields) -> list[str]:
    """Modules that are not quantised, under all names that configs use for that list."""
    names = (
        "ignore",
        "modules_to_not_convert",
        "exclude_modules",
        "ignored_layers",
        "exclude",
        "llm_int8_skip_modules",
    )
    modules: list[str] = []
    for name in names:
        value: Any = fields.get(name, default=None) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise fields.wrong((name,), "give a list of module names")
        modules += value
    return modules


def scheme_bits(scheme: Any) -> int:
    """Bits of a compressed-tensors scheme (``{"num_bits": 8, ..}``) or of a name (``FP8``); 16 without either."""
    if isinstance(scheme, Mapping):
        return int(scheme.get("num_bits") or 16)
    name = str(scheme or "").upper()
    return 8 if "8" in name else 4 if "4" in name else 16


def kv_format(scheme: Any) -> str | None:
    """Format of the KV cache in a scheme."""
    return {8: "fp8", 4: "fp4"}.get(scheme_bits(scheme))
