"""The search: scores by trial, rungs, finalists and the importance of parameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from dspark_tuning.reporting.numbers import NONE, heading, number
from dspark_tuning.reporting.page import Html, Part, Section, details, figure, paragraph, subheading
from dspark_tuning.reporting.plots import SERIES, drawing, line
from dspark_tuning.reporting.table import Share, Table, Words
from dspark_tuning.search.objectives import METRICS, score_figure
from dspark_tuning.search.search import RUNGS
from dspark_tuning.search.space import Space
from dspark_tuning.search.tune import FINALISTS, Outcome

# Importance is estimated from the best tenth of the trials.
FEWEST_TRIALS = 20
SHARE_DIGITS = 9
STOPPED = (SERIES[1]._replace(symbol="x-thin"), SERIES[2]._replace(symbol="triangle-up-open"))


def section(outcome: Outcome) -> Section:
    importance = [subheading("Importance of parameters"), *_importances(outcome)]
    return Section("search", "Search", [_scores(outcome), _rungs(outcome), _finalists(outcome), *importance])


def _scores(outcome: Outcome) -> Html:
    trials = outcome.trials
    metric = METRICS[outcome.options.objective]
    last = len(RUNGS) - 1
    height = trials[[f"rung_{rung}" for rung in range(len(RUNGS))]].notna().sum(axis=1) - 1
    chart = drawing("Trial", f"{heading(metric.title)}, {metric.unit}")
    for rung in range(len(RUNGS)):
        part = trials[height == rung]
        name = "finished" if rung == last else f"stopped on rung {rung + 1}"
        score = part[f"rung_{rung}"].map(score_figure)
        style = SERIES[0] if rung == last else STOPPED[rung % len(STOPPED)]
        line(chart, name, style, part["number"], score, mode="markers", hovertemplate="trial %{x}: %{y:.5g}")
    best = trials[f"rung_{last}"].cummax().ffill().map(score_figure)
    chart.add_scatter(
        x=trials["number"].tolist(),
        y=[None if np.isnan(score) else score for score in best],
        name="best so far",
        mode="lines",
        line={"shape": "hv", "color": SERIES[0].colour, "width": 1.5},
    )
    return figure(
        "search-history",
        chart,
        "Geometric mean over the loads by trial, on the highest rung that the trial reached. Rungs differ in length "
        "and seeds, so their scores compare within a rung. A trial that gave too few requests their TTFT has no point "
        "where the objective needs that.",
        _trial_table(trials),
    )


def _trial_table(trials: pd.DataFrame) -> Table:
    rungs = [f"rung_{rung}" for rung in range(len(RUNGS))]
    rows = [
        [
            str(trial["number"]),
            trial["state"],
            trial["family"],
            *(number(score_figure(trial[rung])) for rung in rungs),
        ]
        for trial in trials.to_dict("records")
    ]
    columns = ["Trial", Words("State"), Words("Family"), *(f"Rung {i + 1}" for i in range(len(RUNGS)))]
    return Table("Every trial", columns, rows)


def _rungs(outcome: Outcome) -> Table:
    loads = len(outcome.scenario.loads)
    rows = [
        [
            f"Rung {i + 1}",
            f"{rung.length:g}",
            str(rung.seeds),
            str(rung.seeds * loads),
            f"{rung.keep:.0%}" if i < len(RUNGS) - 1 else NONE,
            str(int(outcome.trials[f"rung_{i}"].notna().sum())),
        ]
        for i, rung in enumerate(RUNGS)
    ]
    columns = ["Rung", "Length of a cell", "Seeds", "Cells a trial", "Share promoted", "Trials here"]
    return Table("The ladder: each rung promotes the better part of each batch of trials", columns, rows)


def _finalists(outcome: Outcome) -> Html:
    last = f"rung_{len(RUNGS) - 1}"
    done = outcome.trials[outcome.trials["state"] == "complete"]
    best = done.sort_values([last, "number"], ascending=[False, True]).head(FINALISTS).to_dict("records")
    names = [name for name in map(str, done.columns) if not name.startswith(("number", "state", "rung_", "value_"))]
    rows = [["score", *(number(score_figure(trial[last])) for trial in best)]]
    rows += [[name, *(_parameter(trial[name]) for trial in best)] for name in names]
    columns = ["Parameter", *(f"Trial {trial['number']}" for trial in best)]
    return details("The finalists and their parameters", Table("Finalists, the best first", columns, rows))


def _importances(outcome: Outcome) -> list[Part]:
    space = Space(outcome.scenario, outcome.options.pins)
    parts: list[Part] = []
    for family, trials in outcome.trials.groupby("family"):
        if len(trials) < FEWEST_TRIALS:
            parts.append(
                paragraph(f"{family}: {len(trials)} trials, too few to estimate the importance of parameters.")
            )
            continue
        if trials["rung_0"].nunique() == 1:
            parts.append(paragraph(f"{family}: all {len(trials)} trials scored the same on the first rung."))
            continue
        choices = space.families[str(family)] | space.server
        open_choices = {name: choice for name, choice in choices.items() if name not in space.pins}
        shares = importances(trials, open_choices)
        caption = (
            f"{family}: importance of each parameter for being among the best tenth of its {len(trials)} trials on the "
            "first rung, which all of them ran (Optuna's PED-ANOVA; shares of one)"
        )
        parts.append(
            Table(caption, ["Parameter", Words("Importance")], [[name, Share(share)] for name, share in shares.items()])
        )
    return parts


def importances(trials: pd.DataFrame, choices: Mapping[str, BaseDistribution]) -> dict[str, float]:
    """Importance by parameter, largest first.

    Args:
        trials: Columns rung_0 and the names of ``choices``.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                create_trial(
                    value=trial["rung_0"],
                    params={name: _typed(choice, trial[name]) for name, choice in choices.items()},
                    distributions=dict(choices),
                )
                for trial in trials.to_dict("records")
            ]
        )
        importance = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    # The last digits may differ from run to run.
    shares = {name: round(float(share), SHARE_DIGITS) for name, share in importance.items()}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def _typed(choice: BaseDistribution, value: float) -> object:
    """The parameter's own type: a column with empty cells turns integers into floats."""
    if isinstance(choice, CategoricalDistribution):
        return next(option for option in choice.choices if option == value)
    return int(value) if isinstance(choice, IntDistribution) else value


def _parameter(value: object) -> str:
    if isinstance(value, float):
        return NONE if np.isnan(value) else f"{value:.4g}"
    return str(value)
