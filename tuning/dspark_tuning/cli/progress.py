"""Progress of a run: one bar over all its stages, on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from dspark_simulator.scenario import Scenario
from dspark_tuning.search import baselines
from dspark_tuning.search.comparison import LEAST_REPLICATIONS
from dspark_tuning.search.search import rungs_of
from dspark_tuning.search.space import Space
from dspark_tuning.search.tune import BASELINE_LENGTH, FINALISTS, Options, Stage

SEARCH = "search"


class Bar:
    """One bar over the stages of a run.

    Args:
        simulations: Length of the whole run, in full-length simulations; None if unknown.
        per_trial: Simulations of a trial of the search.
    """

    def __init__(self, simulations: float | None = None, per_trial: float = 1.0) -> None:
        self.per_trial = per_trial
        self._stage, self._done = "", 0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("starting", total=simulations)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._bar.update(self._task, description="done", total=1, completed=1)
            self._bar.stop()
        else:
            # A failed run leaves only its error line; ``Progress.stop`` would leave an empty line.
            self._bar.live.transient = True
            self._bar.live.stop()

    def advance(self, description: str) -> None:
        """Advance the bar and show a description; without a terminal, print each description as a line."""
        if description != self._stage and not self._bar.console.is_terminal:
            self._bar.console.print(description)
        self._stage = description
        self._bar.update(self._task, description=description, advance=1.0)

    def __call__(self, stage: Stage) -> None:
        self._done = stage.done if stage.name != self._stage else min(self._done + stage.done, stage.total)
        self._stage = stage.name
        self._bar.update(
            self._task,
            description=f"{stage.name}, {self._done} of {stage.total}",
            advance=stage.done * (self.per_trial if stage.name == SEARCH else 1.0),
        )


def of_tuning(scenario: Scenario, options: Options) -> Bar:
    """The bar of :func:`dspark_tuning.search.tune.tune` with these arguments."""
    per_trial, share = 0.0, 1.0
    for rung in rungs_of(options.objective):
        per_trial += share * rung.length * rung.seeds * len(scenario.loads)
        share *= rung.keep
    # Three baselines tune their flags, in a pass or two.
    arms = len(baselines.baselines(scenario, scenario.server, baselines.STATIC_THETAS[0])) + 3
    flags = sum(len(values) for values in Space(scenario, options.pins).flags().values())
    # Two seeds for each static threshold, half the replications to select, and three more and the winner in the report.
    others = (
        2 * 3 * flags * BASELINE_LENGTH
        + 2 * len(baselines.STATIC_THETAS)
        + (arms + 2 * (1 + FINALISTS)) * max(LEAST_REPLICATIONS, options.replications // 2)
        + (arms + 4) * options.replications
    )
    return Bar(per_trial * options.trials + others * len(scenario.loads), per_trial)
