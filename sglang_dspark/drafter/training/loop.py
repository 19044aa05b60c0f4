"""The training loop.

A step depends only on its number and the previous state, so that a killed run resumes to bit-identical weights.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sglang_dspark.drafter.anchors import sample_anchors
from sglang_dspark.drafter.base import Drafter, TeacherForced
from sglang_dspark.drafter.data.cache import Cache
from sglang_dspark.drafter.data.passages import passages
from sglang_dspark.drafter.families import make
from sglang_dspark.drafter.losses import Weights, losses
from sglang_dspark.drafter.shape import derive
from sglang_dspark.drafter.target import Target, check_layers_exist, check_tokenizer, load_tokenizer
from sglang_dspark.drafter.training import state
from sglang_dspark.drafter.training.recipe import Recipe
from sglang_dspark.drafter.training.texts import CachedTexts, OnTheFlyTexts, Texts, order
from sglang_dspark.drafter.training.workers import Workers
from sglang_dspark.drafter.vocabulary import Columns, draw
from sglang_dspark.errors import InputError

log = logging.getLogger(__name__)

BETAS = (0.9, 0.999)
_EVALUATION_SEED = 20260705


class Trainer:
    """A training run: a recipe with its target, data, drafter and optimizer.

    Args:
        recipe: The settings.
        folder: Of the run; a run of the same recipe is resumed.
        device: A torch device; by default a GPU if there is one.
        report: Called with (step, name, value) for every logged figure.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        device: str | None = None,
        report: Callable[[int, str, float], None] = lambda step, name, value: None,
    ) -> None:
        self.recipe, self.folder, self.report = recipe, folder, report
        self.workers = Workers(device)
        if recipe.batch % (recipe.micro_batch * self.workers.count):
            raise InputError(
                f"batch: {recipe.batch} is not a multiple of micro_batch times {self.workers.count} processes; change"
                " one of them"
            )
        at = self.workers.device
        half = recipe.precision == "bf16"
        dtype = torch.bfloat16 if half and at.type != "cpu" else torch.float32
        target = Target.load(recipe.target, dtype, str(at))
        layers = recipe.draft.target_layer_ids
        check_layers_exist(layers, target)
        config = derive(recipe.draft, target.config, recipe.anchors)
        tokenizer = load_tokenizer(recipe.target)
        check_tokenizer(len(tokenizer), config.vocab_size, recipe.target)
        self.train, self.held_out = self._texts(target, tokenizer)
        if self.workers.first:
            state.claim(folder, recipe)
        self.workers.wait()
        torch.manual_seed(recipe.seed)
        self.drafter: Drafter[Any] = make(config)
        self.drafter.initialize(target.embedding.float().cpu(), target.head.float().cpu())
        self.drafter.to(at)
        self.trained = [parameter for parameter in self.drafter.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay
        )
        self.progress = state.restore(folder, self.drafter, self.optimizer, at)
        self.steps = recipe.steps or math.ceil((recipe.epochs or 1) * len(self.train) / recipe.batch)
        self.weights = Weights(**recipe.losses.model_dump())
        self.common: torch.Tensor | None = None
        if recipe.sampled_tokens is not None:
            counts = torch.bincount(self.train.tokens(), minlength=config.vocab_size)
            self.common = counts.argsort(descending=True, stable=True)[: recipe.sampled_tokens]

    def run(self) -> state.Progress:
        """Train for all steps, or until ``patience`` measurements bring no improvement.

        Raises:
            InputError: The loss is not finite, or a file cannot be written; the last good checkpoint is kept.
        """
        recipe, progress = self.recipe, self.progress
        started, first = time.monotonic(), progress.step
        while progress.step < self.steps and not progress.ended:
            figures = self._step(progress.step)
            progress.step += 1
            last = progress.step == self.steps
            if progress.step % recipe.evaluate_every == 0 or last:
                self._measure(figures)
                pace = (time.monotonic() - started) / (progress.step - first)
                log.info(
                    "step %d of %d, %.2f s a step: %s", progress.step, self.steps, pace, _figures(progress.log[-1])
                )
            if (progress.step % recipe.save_every == 0 or last or progress.ended) and self.workers.first:
                state.save(self.folder, progress, self.drafter, self.optimizer)
        self.workers.wait()
        return progress

    def accepted_length(self) -> float:
        """Measure the expected tokens per round on held-out texts, under rejection sampling at temperature 1."""
        self.drafter.eval()
        texts = min(self.recipe.evaluate_texts, len(self.held_out))
        total = blocks = 0.0
        with torch.no_grad():
            for start in range(0, texts, self.recipe.micro_batch):
                numbers = range(start, min(start + self.recipe.micro_batch, texts))
                generator = torch.Generator().manual_seed(_EVALUATION_SEED + start)
                forced = self._score(self.held_out, list(numbers), generator)
                # A position beyond the text counts as rejected.
                survival = (forced.acceptance() * forced.known).cumprod(-1)
                real = forced.known[:, 0]
                total += float((1.0 + survival.sum(-1))[real].sum())
                blocks += float(real.sum())
        self.drafter.train()
        return total / max(blocks, 1.0)

    def _texts(self, target: Target, tokenizer: object) -> tuple[Texts, Texts]:
        data, layers = self.recipe.data, self.recipe.draft.target_layer_ids

        def read(files: tuple[Path, ...]) -> Texts:
            return OnTheFlyTexts(passages(files, tokenizer, data.max_length, data.template), target, layers)

        held_out = read(data.held_out)
        if data.cache is None:
            return read(data.train), held_out
        cache = Cache(data.cache)
        if cache.index.target != self.recipe.target or cache.index.layers != tuple(layers):
            raise InputError(
                f"{data.cache}: was made for {cache.index.target}, layers {list(cache.index.layers)}, not for"
                f" {self.recipe.target}, {list(layers)}; write one for this recipe"
            )
        return CachedTexts(cache, self.workers.device), held_out

    def _step(self, step: int) -> dict[str, float]:
        """Update the weights once and return the loss terms and the gradients' norm."""
        recipe, workers = self.recipe, self.workers
        numbers = order(len(self.train), step, recipe.batch, recipe.seed)
        passes = recipe.batch // recipe.micro_batch
        sums: dict[str, float] = {}
        self.drafter.train()
        for n in range(workers.rank, passes, workers.count):
            chosen = numbers[n * recipe.micro_batch : (n + 1) * recipe.micro_batch]
            generator = torch.Generator().manual_seed((recipe.seed * 1_000_003 + step) * 65_537 + n)
            terms = losses(self._score(self.train, chosen, generator, self.common), self.weights)
            share = workers.count / passes
            (terms.total * share).backward()
            for name, term in terms._asdict().items():
                sums[name] = sums.get(name, 0.0) + float(term.detach()) * share
        workers.average(parameter.grad for parameter in self.trained)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, recipe.clip))
        if not math.isfinite(norm) or not math.isfinite(sums["total"]):
            raise InputError(
                f"{self.folder}: step {step}: the loss is {sums['total']:g} and its gradients' norm {norm:g}; lower"
                " learning_rate; the state before this step is kept"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * pace(step, self.steps, int(recipe.warmup * self.steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums | {"gradient_norm": norm}

    def _score(
        self,
        texts: Texts,
        numbers: list[int],
        generator: torch.Generator,
        common: torch.Tensor | None = None,
    ) -> TeacherForced:
        """Score random blocks of texts.

        Args:
            texts: Training or held-out texts.
            numbers: The texts of the pass.
            generator: Of the anchors and the sampled tokens.
            common: Tokens to include in a sampled vocabulary; by default the whole vocabulary is used.
        """
        half = self.recipe.precision == "bf16"
        with torch.autocast(self.workers.device.type, torch.bfloat16, enabled=half):
            batch = texts.batch(numbers)
            anchors, kept = sample_anchors(batch.answer, self.recipe.anchors, generator)
            dtype = self.drafter.fc.weight.dtype
            batch = batch._replace(features=batch.features.to(dtype), last=batch.last.to(dtype))
            columns = None
            if common is not None:
                included = torch.cat([common, batch.tokens.cpu().flatten()])
                drawn = draw(included, self.drafter.config.vocab_size, len(common), generator)
                columns = Columns(*(tensor.to(self.workers.device) for tensor in drawn))
            return self.drafter.score(batch, anchors, kept, columns)

    def _measure(self, figures: dict[str, float]) -> None:
        """Measure and log the accepted length, and save the drafter if it is the best so far."""
        progress, workers = self.progress, self.workers
        length = workers.agree(self.accepted_length() if workers.first else 0.0)
        line = {"step": progress.step, "held_out_accepted_length": length} | figures
        # Lines that a killed run logged after its last saved state are logged again.
        progress.log.append({name: round(value, 6) for name, value in line.items()})
        for name, value in line.items():
            if workers.first and name != "step":
                self.report(progress.step, name, value)
        if length > progress.best:
            progress.best, progress.best_step, progress.stale = length, progress.step, 0
            if workers.first:
                self.drafter.save(self.folder / state.DRAFT)
        else:
            progress.stale += 1
            progress.ended = self.recipe.patience is not None and progress.stale >= self.recipe.patience


def pace(step: int, steps: int, warmup: int) -> float:
    """Compute the factor of the learning rate: a linear warm-up, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def tensorboard(folder: Path) -> Callable[[int, str, float], None]:
    """Make a reporter of figures to TensorBoard.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboard: is not installed; pip install 'sglang-dspark[train]'") from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def report(step: int, name: str, value: float) -> None:
        writer.add_scalar(name, value, step)
        writer.flush()

    return report


def _figures(line: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in line.items() if name != "step" and value)
