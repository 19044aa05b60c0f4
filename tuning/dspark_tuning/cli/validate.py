"""``dspark validate``: compare the simulator with published results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspark_tuning.cli.common import Json, Workers, cpus, print_json, print_text

if TYPE_CHECKING:
    from dspark_tuning.measuring.validate import Predicted, Validation
    from dspark_tuning.measuring.validate.published_rows import Key, PublishedRow
    from dspark_tuning.measuring.validate.score import Score


def validate(
    predict: Annotated[
        list[Path], typer.Option("--predict", metavar="FILE", help="CSV of published results to predict; repeatable.")
    ],
    fit: Annotated[
        list[Path] | None,
        typer.Option("--fit", metavar="FILE", help="CSV of published results to calibrate on; repeatable."),
    ] = None,
    cost: Annotated[
        list[Path] | None,
        typer.Option("--cost", metavar="FILE", help="CSV of published step times by step size; repeatable."),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option("--table", metavar="FILE", help="CSV of SPS tables that servers ran with; repeatable."),
    ] = None,
    steps: Annotated[
        list[Path] | None,
        typer.Option("--steps", metavar="FILE", help="CSV of live step times, which correct the tables; repeatable."),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Calibrate on published results and predict others.

    Predicts other arms (policies with their server flags), loads and capture limits.
    """
    from dspark_tuning.cli.progress import Bar
    from dspark_tuning.measuring.validate import curves, published_rows, sps
    from dspark_tuning.measuring.validate import validate as run
    from dspark_tuning.measuring.validate.score import score
    from dspark_tuning.measuring.validate.steps import Measured
    from dspark_tuning.measuring.validate.validation import check_rows, fit_steps
    from dspark_tuning.reporting import validation
    from dspark_tuning.search.evaluation import executor

    measured, wanted = (
        [*published_rows.read(fit or []), *sps.read_live_steps(steps or [])],
        published_rows.read(predict),
    )
    known: dict[Key, Measured] = {key: curve for path in cost or [] for key, curve in curves.read(path).items()}
    known |= sps.read_tables(table or [])
    check_rows([*wanted, *measured], known)
    with executor(workers or cpus()) as pool, Bar(fit_steps(wanted, known)) as bar:
        validated = run(
            measured, wanted, known, pool, progress=lambda rows: bar.advance(f"{rows} of {len(wanted)} rows predicted")
        )
    scored = score(validated.predicted, measured)
    if as_json:
        print_json(_json(validated, scored))
        return
    print_text(
        validation.predictions(validated.predicted),
        validation.errors(scored),
        *map(validation.calibration, validated.calibrations),
        *([validation.crossovers(scored.crossovers)] if scored.crossovers else []),
        _spread([*measured, *wanted]),
    )


def _spread(rows: Iterable[PublishedRow]) -> str:
    spreads = [row.spread for row in rows if row.spread is not None]
    if not spreads:
        return "Published repeats of such runs differ by 2 to 6 % (sgl-project/sglang#35413)."
    return f"Published repeats of these runs differ by {min(spreads):.1%} to {max(spreads):.1%}."


def _json(validated: Validation, scored: Score) -> dict[str, Any]:
    return {
        "mape": scored.overall.mape,
        "worst": scored.overall.worst,
        "tpot_mape": scored.overall.tpot_mape,
        "baseline_mape": scored.overall.baseline_mape,
        "rows": [_row(p) for p in validated.predicted],
        "by_arm": scored.by_arm,
        "crossovers": scored.crossovers,
        "rank_correlation": scored.order,
        "calibrations": validated.calibrations,
    }


def _row(p: Predicted) -> dict[str, Any]:
    row, measured = p.row, p.row.throughput_tok_s
    return {
        "model": row.model,
        "hardware": row.hardware,
        "tp": row.tp,
        "capture_tokens": row.capture_tokens,
        "arm": row.arm,
        "gamma": row.gamma,
        "concurrency": row.concurrency,
        "predicted_tok_s": p.said.throughput_tok_s,
        "measured_tok_s": measured,
        "error": None if measured is None else p.said.throughput_tok_s / measured - 1,
        "baseline_tok_s": p.baseline,
        "predicted_tpot_s": p.said.tpot_s,
        "measured_tpot_s": row.tpot_s,
        "predicted_accepted_length": p.said.accepted_length,
        "predicted_verify_length": p.said.verify_length,
        "scored": row.valid and measured is not None,
        "assumed": p.assumed,
    }
