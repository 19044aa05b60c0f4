"""``dspark train``: a drafter by a recipe."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from dspark_tuning.cli.common import Json, Threads, print_json, start_torch


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a packaged recipe's name.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; resumes an existing one.")] = Path("drafter"),
    show: Annotated[bool, typer.Option("--show", help="Print the recipe and stop.")] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="A torch device. \\[default: a GPU if there is one]")
    ] = None,
    threads: Threads = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log to OUT/tensorboard too.")] = False,
    as_json: Json = False,
) -> None:
    """Train a drafter on its target's outputs; OUT/draft is the best checkpoint on held-out texts."""
    from sglang_dspark.drafter.training.recipe import load, source

    if show:
        print(source(recipe)[0], end="")
        return
    read = load(recipe)
    start_torch(threads)
    from sglang_dspark.drafter.training import loop

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    reports = {"report": loop.tensorboard(out)} if tensorboard else {}
    trainer = loop.Trainer(read, out, device, **reports)
    if trainer.progress.step:
        print(f"Resuming from step {trainer.progress.step}.", file=sys.stderr, flush=True)
    progress = trainer.run()
    if as_json:
        print_json({"steps": progress.step, "accepted_length": progress.best, "best_step": progress.best_step})
    else:
        print(
            f"{out / 'draft'}: accepted length {progress.best:.3f} on held-out texts at step {progress.best_step}"
            f" of {progress.step}."
        )
