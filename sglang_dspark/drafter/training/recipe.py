"""Training recipes: the YAML file that ``dspark train`` reads."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from sglang_dspark.drafter.families import parse_shape
from sglang_dspark.drafter.shape import DraftShape
from sglang_dspark.errors import InputError, validated
from sglang_dspark.parsing import parse_yaml

Weight = Annotated[float, Field(ge=0.0)]


class LossWeights(BaseModel):
    """The weights of the loss terms (:mod:`sglang_dspark.drafter.losses`).

    ``place_ratio`` is the ratio of a position's weight to that of the position before it: exp(-1/4) for DeepSpec's
    ``loss_decay_gamma`` of 4, 0.8 for its ``step_loss_decay``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cross_entropy: Weight = 0.0
    total_variation: Weight = 0.0
    confidence: Weight = 0.0
    distillation: Weight = 0.0
    place_ratio: float = Field(gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.cross_entropy + self.total_variation + self.distillation:
            raise ValueError("give cross_entropy, total_variation or distillation a weight above 0")
        return self


class Data(BaseModel):
    """Answered conversations for training, or a cache of them, and for measuring.

    ``template`` holds additional arguments of the target's chat template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[Path, ...] = ()
    held_out: tuple[Path, ...] = Field(min_length=1)
    max_length: int = Field(default=4096, ge=8)
    cache: Path | None = None
    template: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.train) == (self.cache is not None):
            raise ValueError("give either train, files of answered conversations, or cache, a folder")
        return self


class Recipe(BaseModel):
    """The settings of one training run.

    Args:
        target: A folder, a name on the hub, or ``demo``.
        draft: The family and its shape.
        losses: The weights of the loss terms.
        data: The training and held-out texts.
        steps: Updates of the weights; ``epochs`` counts passes over the data instead.
        batch: Texts per step, over all processes.
        micro_batch: Texts per pass, so that a step fits into memory.
        anchors: Blocks per text.
        sampled_tokens: Number N for losses over part of the vocabulary: the tokens of the pass's texts, the N most
            frequent tokens of all texts and a sample of N others (:mod:`sglang_dspark.drafter.vocabulary`). By default
            losses are over the whole vocabulary.
        learning_rate: The peak, reached after ``warmup``, a share of all steps; then a cosine to 0.
        weight_decay: Of AdamW.
        clip: The largest norm of the gradients.
        precision: ``bf16`` is automatic mixed precision; weights stay in float32.
        seed: Of initial weights, order of the texts, and anchors.
        evaluate_every: Steps between measurements of the accepted length on held-out texts.
        evaluate_texts: Held-out texts per measurement.
        patience: Measurements without improvement after which training ends; by default it runs all steps.
        save_every: Steps between saved states, from which a killed run resumes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    draft: Annotated[SerializeAsAny[DraftShape], BeforeValidator(parse_shape)]
    losses: LossWeights
    data: Data
    steps: int | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    batch: int = Field(default=512, gt=0)
    micro_batch: int = Field(default=1, gt=0)
    anchors: int = Field(default=512, gt=0)
    sampled_tokens: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=6e-4, gt=0.0)
    warmup: float = Field(default=0.04, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    clip: float = Field(default=1.0, gt=0.0)
    precision: Literal["bf16", "float32"] = "bf16"
    seed: int = Field(default=42, ge=0)
    evaluate_every: int = Field(default=500, gt=0)
    evaluate_texts: int = Field(default=64, gt=0)
    patience: int | None = Field(default=None, gt=0)
    save_every: int = Field(default=500, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}")
        if self.losses.confidence and not self.draft.HAS_CONFIDENCE:
            raise ValueError(f"losses.confidence must be 0: {self.draft.family} has no confidence head")
        return self


def names() -> list[str]:
    """Return the names of the packaged recipes."""
    files = resources.files("sglang_dspark.drafter") / "recipes"
    return sorted(file.name.removesuffix(".yaml") for file in files.iterdir() if file.name.endswith(".yaml"))


def source(name: str) -> tuple[str, str]:
    """Return the text of a packaged recipe or of a file, and its name for error messages.

    Raises:
        InputError: Neither exists.
    """
    if name in names():
        file = resources.files("sglang_dspark.drafter") / "recipes" / f"{name}.yaml"
        return file.read_text(encoding="utf-8"), name
    try:
        return Path(name).read_text(encoding="utf-8"), name
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: is neither a file nor a packaged recipe; use one of {', '.join(names())}") from error


def load(name: str) -> Recipe:
    """Read a packaged recipe or a file; paths in it are relative to the working folder.

    Raises:
        InputError: The recipe cannot be read, or a field is missing, unknown or out of range.
    """
    text, where = source(name)
    return validated(Recipe, parse_yaml(text, where), where)
