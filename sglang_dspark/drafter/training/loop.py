"""The training loop. A step depends on its number and the state before it alone, so a killed run goes on exactly."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sglang_dspark.drafter.anchors import sample_anchors
from sglang_dspark.drafter.base import Forced
from sglang_dspark.drafter.checkpoint import AnyDrafter, make
from sglang_dspark.drafter.data.cache import Cache
from sglang_dspark.drafter.data.passages import passages
from sglang_dspark.drafter.derive import derive
from sglang_dspark.drafter.losses import Weights, losses
from sglang_dspark.drafter.target import Target, check_layers_exist, check_tokenizer, load_tokenizer
from sglang_dspark.drafter.training import state
from sglang_dspark.drafter.training.recipe import Recipe
from sglang_dspark.drafter.training.texts import Cached, Looked, Texts, order
from sglang_dspark.drafter.training.workers import Workers
from sglang_dspark.drafter.vocabulary import Columns, draw
from sglang_dspark.errors import InputError

log = logging.getLogger(__name__)

BETAS = (0.9, 0.999)
_EVALUATION_SEED = 20260705


class Trainer:
    """A recipe, its target and data, and the drafter in the making.

    Args:
        folder: of the training; one that was begun by the same recipe is gone on with.
        device: as torch names it; by default a GPU if there is one.
        report: told (step, name, value) of every figure that is logged.
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
                f"batch: {recipe.batch} is no multiple of micro_batch times {self.workers.count} processes; change one"
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
        self.drafter: AnyDrafter = make(config)
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
        """Trains to the end, or until no measurement gets better.

        Raises:
            InputError: The loss is not finite, or a file cannot be written; the last good checkpoint stands.
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
                log.info("step %d of %d, %.2f s a step: %s", progress.step, self.steps, pace, _said(progress.log[-1]))
            if (progress.step % recipe.save_every == 0 or last or progress.ended) and self.workers.first:
                state.save(self.folder, progress, self.drafter, self.optimizer)
        self.workers.wait()
        return progress

    def accepted_length(self) -> float:
        """Expected tokens a round on held-out texts under rejection sampling at temperature 1, by the texts' blocks."""
        self.drafter.eval()
        texts = min(self.recipe.evaluate_texts, len(self.held_out))
        total = blocks = 0.0
        with torch.no_grad():
            for start in range(0, texts, self.recipe.micro_batch):
                numbers = range(start, min(start + self.recipe.micro_batch, texts))
                generator = torch.Generator().manual_seed(_EVALUATION_SEED + start)
                forced = self._score(self.held_out, list(numbers), generator)
                # A place that the text does not reach counts as refused.
                survival = (forced.acceptance() * forced.known).cumprod(-1)
                real = forced.known[:, 0]
                total += float((1.0 + survival.sum(-1))[real].sum())
                blocks += float(real.sum())
        self.drafter.train()
        return total / max(blocks, 1.0)

    def _texts(self, target: Target, tokenizer: object) -> tuple[Texts, Texts]:
        data, layers = self.recipe.data, self.recipe.draft.target_layer_ids

        def looked(files: tuple[Path, ...]) -> Texts:
            return Looked(passages(files, tokenizer, data.max_length, data.template), target, layers)

        held_out = looked(data.held_out)
        if data.cache is None:
            return looked(data.train), held_out
        cache = Cache(data.cache)
        if cache.index.target != self.recipe.target or cache.index.layers != tuple(layers):
            raise InputError(
                f"{data.cache}: was made for {cache.index.target}, layers {list(cache.index.layers)}, not for"
                f" {self.recipe.target}, {list(layers)}; write one for this recipe"
            )
        return Cached(cache, self.workers.device), held_out

    def _step(self, step: int) -> dict[str, float]:
        """One update of the weights."""
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
                f" learning_rate. The state before it stands"
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
    ) -> Forced:
        """Over the whole vocabulary; given ``common`` tokens, over those, the texts' and a sample of others."""
        half = self.recipe.precision == "bf16"
        with torch.autocast(self.workers.device.type, torch.bfloat16, enabled=half):
            batch = texts.batch(numbers)
            anchors, kept = sample_anchors(batch.answer, self.recipe.anchors, generator)
            dtype = self.drafter.fc.weight.dtype
            batch = batch._replace(features=batch.features.to(dtype), last=batch.last.to(dtype))
            columns = None
            if common is not None:
                named = torch.cat([common, batch.tokens.cpu().flatten()])
                drawn = draw(named, self.drafter.config.vocab_size, len(common), generator)
                columns = Columns(*(tensor.to(self.workers.device) for tensor in drawn))
            return self.drafter.score(batch, anchors, kept, columns)

    def _measure(self, figures: dict[str, float]) -> None:
        """Measures, logs, and keeps the drafter if it is the best so far."""
        progress, workers = self.progress, self.workers
        length = workers.agree(self.accepted_length() if workers.first else 0.0)
        line = {"step": progress.step, "held_out_accepted_length": length} | figures
        # What a run that was killed had logged after its last state is logged again.
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
    """The learning rate's factor: a linear warm-up, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def tensorboard(folder: Path) -> Callable[[int, str, float], None]:
    """Reports figures to TensorBoard.

    Raises:
        InputError: It is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard: is not installed; pip install 'sglang-dspark[train]'") from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def report(step: int, name: str, value: float) -> None:
        writer.add_scalar(name, value, step)
        writer.flush()

    return report


def _said(line: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in line.items() if name != "step" and value)
