"""``dspark eval``: evaluate a drafter on data sets, offline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.cli.common import Device, Json, Threads, print_json, print_text, start_torch

if TYPE_CHECKING:
    from dspark_tuning.measuring.drafters.evaluation import Evaluation


def evaluate(
    target: Annotated[str, typer.Argument(help="The target: a folder, a name on the hub, or demo.")],
    draft: Annotated[Path, typer.Argument(help="Folder of the drafter's checkpoint.")],
    data: Annotated[
        list[str],
        typer.Option("--data", help="JSON lines, or one of gsm8k, math500, humaneval, mbpp, mt-bench, alpaca, aime25."),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the results: JSON, report and acceptance model.")
    ] = Path("eval"),
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder that is searched for NAME.jsonl first.")] = Path(
        "data"
    ),
    temperature: Annotated[list[float] | None, typer.Option("--temperature", help="\\[default: 0 and 1]")] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Prompts of a data set, its first ones.")] = 80,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer.")] = 256,
    together: Annotated[int, typer.Option("--together", min=1, help="Prompts at a time.")] = 16,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="For chat templates with a thinking mode.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the samples.")] = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure accepted length, acceptance by position and confidences; write a model for simulate and tune.

    Accepted length counts the tokens of a round, the target's own included. Rounds run without a server; those of the
    first temperature make the acceptance model and the STS temperatures (which calibrate the confidences).
    """
    from dspark_tuning.measuring.drafters import evaluation
    from dspark_tuning.reporting import drafters
    from sglang_dspark.drafter.data.datasets import prompts
    from sglang_dspark.errors import InputError

    temperatures = temperature or [0.0, 1.0]
    if min(temperatures) < 0.0:
        raise InputError(f"--temperature: {min(temperatures):g} is not valid; give 0 or more")
    sets = dict(prompts(name, data_dir) for name in data)
    start_torch(threads)
    from sglang_dspark.drafter.offline_rounds import converse
    from sglang_dspark.drafter.pair import load
    from sglang_dspark.drafter.rounds import OfflineRounds

    pair = load(target, draft, device)
    template: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    rounds: dict[float, dict[str, OfflineRounds]] = {}
    for value in dict.fromkeys(temperatures):
        for name, turns in sets.items():

            def say(done: int, of: int, label: str = f"{name} at temperature {value:g}") -> None:
                print(f"{label}: {done} of {of}", file=sys.stderr, flush=True)

            played = converse(pair, turns[:requests], max_tokens, value, seed, together, template, say)
            rounds.setdefault(value, {})[name] = played
    config = pair.drafter.config
    evaluated = evaluation.evaluate(rounds, target, draft.name, config.architecture, config.gamma)
    commands = [" ".join(["dspark", *sys.argv[1:]])]
    if evaluated.fit is not None:
        commands.append(f"dspark simulate --acceptance {out / evaluation.ACCEPTANCE} --domain {next(iter(sets))}")
    files = evaluation.write(evaluated, out, drafters.render(evaluated, commands))
    if as_json:
        print_json(evaluation.plain(evaluated))
    else:
        _print(evaluated, files)


def _print(evaluated: Evaluation, files: list[Path]) -> None:
    from dspark_tuning.reporting import drafters

    print_text(drafters.lengths(evaluated), drafters.positions(evaluated.figures))
    for temperature, head in evaluated.head.items():
        if head is not None:
            ece = f"ECE of the survival {head.ece_before.mean():.3f}, {head.ece_after.mean():.3f} with STS"
            print_text(f"Confidence at temperature {temperature:g}: {ece}; ROC-AUC {head.auc[0]:.2f} at position 1.")
    print_text(*(evaluated.fit.warnings if evaluated.fit is not None else ()), ", ".join(map(str, files)))
