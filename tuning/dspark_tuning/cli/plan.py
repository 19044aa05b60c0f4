"""``dspark plan``: the GPUs that a traffic and its SLOs need."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dspark_tuning.cli.common import (
    Dask,
    Domain,
    Json,
    Seed,
    Workers,
    check_writable,
    cpus,
    print_json,
    print_text,
    say_what_was_read,
)
from dspark_tuning.cli.deployment_options import DeploymentOptions, with_deployment_options
from dspark_tuning.cli.remarks import warn
from dspark_tuning.cli.trace_options import TraceChoice, takes_trace

if TYPE_CHECKING:
    from dspark_tuning.planning import Planned, Question

DEFAULT = "v4flash-chat"


@with_deployment_options
@takes_trace
def plan(
    options: DeploymentOptions,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="PLAN",
            help="A packaged plan or a plan's YAML file (--show prints one), or a scenario: its deployment under its "
            f"traffic. \\[default: {DEFAULT}]",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="REQUESTS_PER_S", help="Plan for this rate instead of the file's own."),
    ] = None,
    trace: TraceChoice | None = None,
    domain: Domain = None,
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
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write plan.json, report.html and the choice's policy.json, scenario.yaml and launch.sh there.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the plan's file and stop.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of plan files and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Find the fewest GPUs that serve a traffic within its SLOs, and the effect of changes.

    A replica count suffices where the attainment (share of each class's requests within their SLOs) is high enough.
    """
    from dspark_tuning import planning
    from dspark_tuning.planning.deployments import deployment
    from dspark_tuning.planning.question import json_schema, text
    from sglang_dspark.errors import InputError

    if schema:
        print_json(json_schema())
        return
    if show and options.given:
        raise InputError(
            "--show: prints a plan's file, and a model has none; `dspark scenario new` writes its scenario"
        )
    if show:
        print(text(question or DEFAULT), end="")
        return
    posed = _posed(question, options, trace, domain)
    say_what_was_read(posed.workload)
    for choice in posed.choices:
        deployed = deployment(posed, choice)
        # The rate is of all replicas together, and the plan sets the length of its runs.
        warn(deployed.scenario, f"{posed.name}: {deployed.name}", besides=("workload.arrivals", "loads", "run"))
    texts = [*posed.what_if, *(what_if or ())]

    from dspark_tuning.cli.progress import Bar
    from dspark_tuning.planning.what_if import parse
    from dspark_tuning.reporting.plan.files import write
    from dspark_tuning.search.evaluation import executor

    changes = tuple(parse(text) for text in texts)
    if out is not None:
        check_writable(out)
    with executor(workers or cpus(), dask) as pool, Bar(planning.stages(posed, changes)) as bar:
        planned = planning.plan(posed, changes, trials=trials, seed=seed, pool=pool, progress=bar)
    words = ["dspark", "plan", *([] if options.given else [question or DEFAULT]), *options.words()]
    words += [*([] if trace is None else trace.words()), *([] if domain is None else ["--domain", domain])]
    words += [word for text in what_if or () for word in ("--what-if", text)]
    words += ["--trials", str(trials), "--seed", str(seed)]
    again = shlex.join([*words, *(["--out", str(out)] if out is not None else [])])
    files = [] if out is None else write(planned, out, again, trials, seed)
    if as_json:
        from dspark_tuning.reporting.plan.as_json import as_json as plain

        print_json(plain(planned) | {"seconds": planned.seconds, "files": files})
    else:
        _print(planned, files)


def _posed(question: str | None, options: DeploymentOptions, trace: TraceChoice | None, domain: str | None) -> Question:
    """The question of a file, or of the deployment that the options describe."""
    from dspark_tuning import planning
    from sglang_dspark.errors import InputError

    if not options.given:
        for name, value in (("trace", trace and trace.path), ("domain", domain)):
            if value is not None:
                raise InputError(f"{name}: {value} is given without a model; write it into the plan's workload")
        return planning.load(question or DEFAULT, options.rate)
    if question is not None:
        raise InputError(f"--model: a model is given together with the plan {question}; give one of the two")
    if options.rate is None and trace is None:
        raise InputError("rate: missing; give the requests per second to plan for, or a trace")
    return planning.of_model(options.deployed(), options.traffic(domain, trace))


def _print(planned: Planned, files: list[Path]) -> None:
    from dspark_tuning.reporting.plan import tables

    question = planned.question
    print_text(
        tables.plans(planned),
        tables.sizes(planned),
        f"The capacity is the requests/s of a replica at an attainment of {question.attainment:.0%}: the share of each "
        "class's requests within both of its SLOs. It is the mean over replications, with its one-sided "
        f"{question.confidence:.0%} bounds; replicas follow from the lower bound. 'One replica less' is "
        "'indeterminate' where the replications do not decide whether it suffices. "
        "Percentiles are means of each simulation's own. All figures are simulated; the step times are as each "
        "hardware's description says.",
    )
    if planned.effects:
        print_text(tables.effects(planned.effects))
    if planned.points:
        print_text(tables.frontier(planned.points))
    print_text(tables.answer(planned))
    if files:
        print_text(f"Wrote {', '.join(map(str, files))}.")
