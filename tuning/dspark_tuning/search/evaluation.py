"""Simulate (arm, load, seed) cells in this process, in a process pool or on a dask cluster, with identical results."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm, simulate
from sglang_dspark.errors import InputError

Task = TypeVar("Task")
Value = TypeVar("Value")

# Tasks submitted to an executor at a time: enough to keep workers busy, few enough to interrupt quickly.
IN_FLIGHT = 64


class Cell(NamedTuple):
    """One simulation: an arm at a load, with the requests, acceptances and truth of a seed.

    Attributes:
        length: Factor of the number of measured requests; it grows with the rungs of a search.
    """

    arm: Arm
    load: float
    seed: int
    length: float = 1.0


def at_load(scenario: Scenario, cell: Cell) -> Scenario:
    """The scenario at the load of a cell, with the number of requests that the cell needs.

    A closed loop is measured for two rounds of its clients, an open loop for the number of requests in the scenario.
    """
    loaded = scenario.at_load(cell.load)
    if scenario.workload.clients is None:
        warmup, measured = loaded.run.warmup_requests, loaded.run.requests - loaded.run.warmup_requests
    else:
        clients = int(cell.load)
        warmup, measured = clients + clients // 2 + 4, 2 * clients + 48
    requests = warmup + max(1, round(measured * cell.length))
    run = scenario.run.model_copy(update={"requests": requests, "warmup_requests": warmup})
    return loaded.model_copy(update={"run": run})


def measure(scenario: Scenario, cell: Cell) -> dict[str, Any]:
    """Simulate a cell and return one flat row of figures, in seconds and tokens."""
    truth = scenario.live.draw(cell.seed)
    result = simulate(at_load(scenario, cell), cell.arm, seed=cell.seed, truth=truth)
    return {
        "arm": cell.arm.name,
        "load": cell.load,
        "seed": cell.seed,
        "overhead_s": truth.overhead_s,
        "slope": truth.slope,
        **result.row(),
    }


def evaluate(
    scenario: Scenario,
    cells: Sequence[Cell],
    executor: Executor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Simulate cells; rows in the order of ``cells``.

    Args:
        executor: Where the cells run; None is this process.
        progress: Called with the number of cells completed since the last call.
    """
    rows = []
    for row in in_order(measure, scenario, cells, executor):
        rows.append(row)
        progress(1)
    return pd.DataFrame(rows)


def in_order(
    work: Callable[[Scenario, Task], Value], scenario: Scenario, tasks: Iterable[Task], executor: Executor | None
) -> Iterator[Value]:
    """Yield the result of ``work`` for each task, in the order of the tasks."""
    if executor is None:
        yield from (work(scenario, task) for task in tasks)
        return
    waiting = iter(tasks)
    running = [executor.submit(work, scenario, task) for task in itertools.islice(waiting, IN_FLIGHT)]
    while running:
        yield running.pop(0).result()
        running.extend(executor.submit(work, scenario, task) for task in itertools.islice(waiting, 1))


def grid(arms: Iterable[Arm], loads: Iterable[float], seeds: Iterable[int], length: float = 1.0) -> list[Cell]:
    """Every arm at every load on every seed."""
    return [Cell(arm, load, seed, length) for arm, load, seed in itertools.product(arms, loads, seeds)]


@contextmanager
def executor(workers: int, dask: str | None = None) -> Iterator[Executor | None]:
    """Executor of cells: None for one worker, a process pool, or a dask cluster by the address of its scheduler.

    Raises:
        InputError: ``dask`` is given but not installed, or no scheduler answers at the address.
    """
    if dask is not None:
        try:
            from distributed import Client
        except ImportError as error:
            raise InputError("dask: distributed is not installed; pip install 'sglang-dspark[dask]'") from error
        try:
            client: Any = Client(dask, timeout=10)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise InputError(f"dask: {dask}: no scheduler answers; start one with `dask scheduler`") from error
        with client:
            # By default dask would answer equal cells from memory.
            yield client.get_executor(pure=False)
    elif workers == 1:
        yield None
    else:
        # Spawned, since a forked child inherits the threads of a progress bar.
        context = multiprocessing.get_context("spawn")
        # The parent process handles interrupts.
        ignore = (signal.SIGINT, signal.SIG_IGN)
        with ProcessPoolExecutor(workers, mp_context=context, initializer=signal.signal, initargs=ignore) as pool:
            try:
                yield pool
            except BaseException:
                # Wait: a pool that is shut down while the interpreter exits may write to a closed pipe.
                pool.shutdown(cancel_futures=True)
                raise
