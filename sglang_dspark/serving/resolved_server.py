"""A server described by its resolved flags, its model and its GPU, before weights are loaded."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any, Final, NamedTuple

ATTENTION: Final = "sglang.srt.layers.attention"
HOOKS: Final = "sglang.srt.arg_groups"


class ResolvedServer(NamedTuple):
    """A server whose flags are resolved and whose weights are not loaded.

    Attributes:
        cfg: SGLang's resolved flags.
        model: Its ``ModelConfig``; None if unknown.
        mla: The target has multi-head latent attention.
        platform: SGLang's facts about the GPU.
        cpu_engine: It runs on this package's CPU engine.
    """

    cfg: Any
    model: Any
    mla: bool
    platform: Any
    cpu_engine: bool = False

    def field(self, side: str) -> str:
        """The flag that names the attention backend of ``prefill`` or ``decode``."""
        return f"{side}_attention_backend" if getattr(self.cfg, f"{side}_attention_backend") else "attention_backend"

    @property
    def verify_field(self) -> str:
        """The flag that names the attention backend of target verification."""
        return self.field("decode" if self.cfg.speculative_attention_mode == "decode" else "prefill")

    @property
    def verify_backend(self) -> str:
        """The attention backend of target verification, by SGLang's name."""
        return str(getattr(self.cfg, self.verify_field))

    @property
    def captures(self) -> bool:
        """Whether decode steps are captured in graphs."""
        return str(self.cfg.device) != "cpu" and self.cfg.cuda_graph_config.decode.backend != "disabled"

    @property
    def major(self) -> int | None:
        """The first number of the GPU's compute capability; None where the GPU is not NVIDIA's."""
        capability = self.platform.device_capability if self.platform.is_cuda else None
        return capability[0] if capability else None

    @property
    def architecture(self) -> str | None:
        """The target's class, by SGLang's name; None if unknown."""
        names = () if self.model is None else self.model.hf_config.architectures or ()
        return str(names[0]) if names else None

    def is_model(self, detect: Callable[[Any], bool]) -> bool:
        """Whether the target's configuration is known and ``detect`` holds of it."""
        return self.model is not None and detect(self.model)

    def is_other(self, detect: Callable[[Any], bool]) -> bool:
        """Whether the target's configuration is known and ``detect`` does not hold of it."""
        return self.model is not None and not detect(self.model)


def option(field: str) -> str:
    """A field of SGLang's flags as the command line spells it."""
    return "--" + field.replace("_", "-")


def by(symbol: str, attribute: str | None = None) -> Callable[[Any], bool]:
    """A test of the model configuration, or of an attribute of it, by a function of SGLang."""

    def detect(model: Any) -> bool:
        return bool(pkgutil.resolve_name(symbol)(getattr(model, attribute) if attribute else model))

    return detect


def is_a(symbol: str, attribute: str) -> Callable[[Any], bool]:
    """A test whether an attribute of the model configuration is of a class of SGLang."""

    def detect(model: Any) -> bool:
        return isinstance(getattr(model, attribute), pkgutil.resolve_name(symbol))

    return detect
