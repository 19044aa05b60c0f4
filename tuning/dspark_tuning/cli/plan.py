"""``dspark plan``: how many GPUs a traffic and its service levels need."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dspark_tuning.cli.common import Dask, Json, Seed, Workers, check_writable, console, cpus, print_json

if TYPE_CHECKING:
    from dspark_tuning.planning import Planned

DEFAULT = "v4flash-chat"


def plan(
    question: Annotated[
        str, typer.Argument(metavar="PLAN", help="A packaged plan (v4flash-chat) or a YAML file; --show prints one.")
    ] = DEFAULT,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="REQUESTS_PER_S", help="Plan for this traffic instead.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="NAME=AMOUNT",
            help="rate=2x, prompt=1.5x, output=2x, acceptance=-20%, ttft=0.5, tpot=0.7x, capture=32, kv=0.5x, "
            "gpu=B200 or lost=2; repeatable.",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Candidates of a tuning, rounded up to whole batches of 16.")
    ] = 32,
    workers: Workers = None,
    dask: Dask = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write plan.json, policy.json, launch.sh and report.html there."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the plan's file and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Find the fewest GPUs that serve a traffic within its service levels, and what changes would do to them."""
    from dspark_tuning import planning
    from dspark_tuning.planning.question import text

    if show:
        print(text(question), end="")
        return
    asked = planning.load(question)
    if rate is not None:
        asked = asked.at_rate(rate)
    texts = [*asked.what_if, *(what_if or ())]

    from dspark_tuning.cli.progress import Bar
    from dspark_tuning.planning.what_if import parse
    from dspark_tuning.reporting.plan.files import write
    from dspark_tuning.search.evaluation import executor

    changes = tuple(parse(text) for text in texts)
    if out is not None:
        check_writable(out)
    with executor(workers or cpus(), dask) as pool, Bar(planning.stages(asked, changes)) as bar:
        found = planning.plan(asked, changes, trials=trials, seed=seed, pool=pool, progress=bar)
    words = ["dspark", "plan", question, *(["--rate", f"{rate:g}"] if rate is not None else [])]
    words += [word for text in what_if or () for word in ("--what-if", text)]
    words += ["--trials", str(trials), "--seed", str(seed)]
    again = shlex.join([*words, *(["--out", str(out)] if out is not None else [])])
    files = [] if out is None else write(found, out, again, trials, seed)
    if as_json:
        from dspark_tuning.reporting.plan.as_json import as_json as plain

        print_json(plain(found) | {"seconds": found.seconds, "files": files})
    else:
        _print(found, files)


def _print(found: Planned, files: list[Path]) -> None:
    from dspark_tuning.reporting.plan import tables

    question = found.question
    out = console()
    out.print(tables.plans(found))
    out.print(tables.sizes(found))
    out.print(
        f"The capacity is the requests/s of a replica with {question.attainment:.0%} of each class's within both of "
        f"its service levels: the mean over replications, and its one-sided {question.confidence:.0%} bounds. Replicas "
        "follow from the lower bound; 'one less' is what one replica less reaches, 'indeterminate' where the "
        "replications do not tell whether it would do. Percentiles are means of each simulation's own. "
        "Step times are as each choice says: all figures are simulated."
    )
    if found.effects:
        out.print(tables.effects(found.effects))
        out.print("Goodput, share and percentiles are of the plan's own size under the change; GPUs are tuned again.")
    if found.points:
        out.print(tables.frontier(found.points))
    out.print(tables.answer(found))
    if files:
        out.print(f"Wrote {', '.join(map(str, files))}.", soft_wrap=True)
