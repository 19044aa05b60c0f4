"""Send a workload to a server: a closed loop of clients, or an open loop at the arrival times."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
import numpy as np

from dspark_simulator.scenario import Run
from dspark_simulator.workloads import RequestClass, Workload
from dspark_tuning.measuring.load.prompts import Prompts, PromptSpec, of_texts, random_tokens
from dspark_tuning.measuring.load.request import ResponseStream, SentRequest, ask
from sglang_dspark.sglang_client import Client, verify_lengths

# Longest line of a response: an event may hold all tokens so far.
LINE_BYTES = 1 << 24


class Loaded(NamedTuple):
    """Client-side measurements of a server under load.

    Attributes:
        requests: All requests sent, in the order of the workload.
        clients: Clients of a closed loop; None for an open loop.
        expected: Number of requests to measure by class.
        opened_s, closed_s: Measuring window from the start of the run, defined as in ``dspark_simulator.result``.
        wall_s: Duration of the run.
        cpu_s: CPU time of this process, which runs the clients.
        late_s: Largest delay of a request of an open loop after its arrival time.
        server: ``/server_info`` at the start.
    """

    classes: tuple[RequestClass, ...]
    requests: tuple[SentRequest, ...]
    clients: int | None
    expected: tuple[int, ...]
    opened_s: float
    closed_s: float
    wall_s: float
    cpu_s: float
    late_s: float
    server: dict[str, Any]

    @property
    def failed(self) -> list[SentRequest]:
        """Requests that ended with an error."""
        return [request for request in self.requests if request.error]


def drive(
    client: Client,
    workload: Workload,
    run: Run,
    seed: int = 0,
    prompts: Prompts | Mapping[str, Sequence[str]] | None = None,
    temperature: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> Loaded:
    """Send a workload, timed as in ``dspark_simulator.simulation.simulate``, and measure the requests of ``run``.

    The prefix cache is emptied first. Every request generates its full output length. Failures are counted and not
    retried.

    Args:
        run: Number of requests; the first ones warm up and are not measured.
        seed: Determines the requests, as in the simulator.
        prompts: Texts by class, or a function that makes prompts; random tokens if None.
        say: Called with messages for the user.

    Raises:
        InputError: No server answers, or it cannot tokenize.
    """
    server = client.connect()
    if prompts is None:
        prompts = random_tokens(client, seed)
    elif isinstance(prompts, Mapping):
        prompts = of_texts(client, prompts)
    if not client.empty_cache():
        say("The prefix cache was not emptied, because other requests are running.")
    return asyncio.run(_Drive(client, workload, run, seed, prompts, temperature).go(server))


class _Drive:
    """One run; times are of ``perf_counter`` until it ends."""

    def __init__(
        self, client: Client, workload: Workload, run: Run, seed: int, prompts: Prompts, temperature: float
    ) -> None:
        self._client, self._workload, self._run, self._seed = client, workload, run, seed
        self._prompts, self._temperature = prompts, temperature
        self._rows: Iterator[Any] = (row for chunk in workload.chunks(seed) for row in chunk)
        self._first, self._last = run.warmup_requests, run.requests
        # The measured requests are followed by as many more, as in the simulator.
        self._end = self._last if run.drain else 2 * self._last - self._first
        self._sent = 0
        self._left = self._last - self._first
        self._done = asyncio.Event()
        self._requests: list[SentRequest] = []
        self._started_s = self._opened_s = self._closed_s = 0.0
        self._late_s = 0.0

    async def go(self, server: dict[str, Any]) -> Loaded:
        cpu_s = time.process_time()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            headers=self._client.headers,
            read_bufsize=LINE_BYTES,
        ) as session:
            self._started_s = time.perf_counter()
            clients = self._workload.clients
            if clients is None:
                tasks = [asyncio.create_task(self._arrivals(session))]
            else:
                tasks = [asyncio.create_task(self._one_client(session)) for _ in range(clients)]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), self._run.max_s)
            ended_s = time.perf_counter()
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome
        return Loaded(
            self._workload.classes,
            tuple(sorted(self._requests, key=lambda request: request.id)),
            clients,
            tuple(self._workload.class_counts(self._seed, self._first, self._last)),
            (self._opened_s or ended_s) - self._started_s,
            (self._closed_s or ended_s) - self._started_s,
            ended_s - self._started_s,
            time.process_time() - cpu_s,
            self._late_s,
            server,
        )

    async def _one_client(self, session: aiohttp.ClientSession) -> None:
        while not self._run.drain or self._sent < self._end:
            await self._send(session, next(self._rows))

    async def _arrivals(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._end):
                row = next(self._rows)
                at_s = self._started_s + float(row["arrival_s"])
                await asyncio.sleep(max(at_s - time.perf_counter(), 0.0))
                self._late_s = max(self._late_s, time.perf_counter() - at_s)
                group.create_task(self._send(session, row))

    async def _send(self, session: aiohttp.ClientSession, row: Any) -> None:
        """Send a request, read its response to the end, and store it."""
        number, klass = int(row["id"]), self._workload.classes[int(row["slo_class"])]
        prompt = self._prompts(PromptSpec(number, klass.name, int(row["prompt"]), int(row["cached"])))
        sampling = {
            "temperature": self._temperature,
            "max_new_tokens": int(row["output"]),
            "ignore_eos": True,
            "custom_params": {"slo_class": klass.name},
        }
        sent_s = time.perf_counter()
        if self._sent == self._first:
            self._opened_s = sent_s
        elif self._sent == self._last and self._opened_s:
            self._closed_s = sent_s
        self._sent += 1
        stream = ResponseStream()
        error = ""  # A request that is cut off by the end of the run has not failed.
        try:
            error = await ask(session, self._client.url, prompt, sampling, stream)
        finally:
            measured = self._first <= number < self._last
            meta = stream.meta
            self._requests.append(
                SentRequest(
                    number,
                    int(row["slo_class"]),
                    measured,
                    int(meta.get("prompt_tokens", len(prompt))),
                    stream.total,
                    sent_s - self._started_s,
                    time.perf_counter() - self._started_s,
                    np.array(stream.at_s) - self._started_s,
                    np.array(stream.tokens, np.int64),
                    int(meta.get("spec_verify_ct") or 0),
                    verify_lengths(meta),
                    error,
                    not error and stream.total == int(row["output"]),
                )
            )
            if measured:
                self._left -= 1
                if not self._left:
                    self._done.set()
