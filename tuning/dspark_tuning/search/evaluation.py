"""Simulating many (arm, load, seed) cells, here or on other processes, in an order that changes nothing."""

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
Answer = TypeVar("Answer")

# Tasks that may wait at an executor at once: enough to keep workers busy, few enough to interrupt.
IN_FLIGHT = 64


class Cell(NamedTuple):
    """One simulation: an arm at a load, on the requests, acceptances and truth of a seed.

    Attributes:
        length: Multiplies the number of measured requests; rungs of a search raise it.
    """

    arm: Arm
    load: float
    seed: int
    length: float = 1.0


def at_load(scenario: Scenario, cell: Cell) -> Scenario:
    """``scenario`` at the cell's load, for as many requests as the cell needs.

    A closed loop is measured for two rounds of its clients, an open loop for as many requests as the scenario says.
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
    """Simulates a cell; one flat row of figures, seconds and tokens."""
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
    """Simulates cells; rows in the order of ``cells``, whoever ran them.

    Args:
        executor: Runs the cells elsewhere; None runs them here.
        progress: Called with the number of cells done since the last call.
    """
    rows = []
    for row in in_order(measure, scenario, cells, executor):
        rows.append(row)
        progress(1)
    return pd.DataFrame(rows)


def in_order(
    work: Callable[[Scenario, Task], Answer], scenario: Scenario, tasks: Iterable[Task], executor: Executor | None
) -> Iterator[Answer]:
    """Yield the answer of ``work`` to each task, in the order of the tasks."""
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
    """Where cells run: here (one worker), on that many processes, or on a dask cluster by its scheduler's address.

    Raises:
        InputError: ``dask`` is given but not installed, or nobody answers at the address.
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
            # Cells are pure functions, and the default would answer equal ones from memory.
            yield client.get_executor(pure=False)
    elif workers == 1:
        yield None
    else:
        # Spawned, since a forked child would inherit the threads of a progress bar.
        context = multiprocessing.get_context("spawn")
        # An interrupt is the parent's to answer.
        ignore = (signal.SIGINT, signal.SIG_IGN)
        with ProcessPoolExecutor(workers, mp_context=context, initializer=signal.signal, initargs=ignore) as pool:
            try:
                yield pool
            except BaseException:
                # Waited for: the interpreter would, and a pool that ends while it exits may write to a closed pipe.
                pool.shutdown(cancel_futures=True)
                raise
