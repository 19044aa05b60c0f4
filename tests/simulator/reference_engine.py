"""Second implementation of SGLang's scheduler in plain Python, to check the simulated engine.

Written from sglang 0.5.23 (``event_loop_normal`` of ``managers/scheduler.py``, first come first served, pages of one
token, one rank), not from the simulator, of which it reads the server's flags and nothing else. Requests, accepted
drafts and step times are handed in. Names in double backquotes are SGLang's, so that each rule can be checked against
its source.

Two things are the simulator's abstraction and not SGLang's: a shared prefix is cached whole or not at all, decided when
a request arrives, and every request holds a copy of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dspark_simulator.server import Server

CLIP_MAX_NEW_TOKENS, RETRACT_DECODE_STEPS = 4096, 20
INIT_NEW_TOKEN_RATIO, MIN_NEW_TOKEN_RATIO_FACTOR, NEW_TOKEN_RATIO_DECAY_STEPS = 0.7, 0.14, 600

Verdict = Literal["continue", "no token", "other"]  # ``AddReqResult``


@dataclass(eq=False)
class Request:
    """A request and its progress.

    Attributes:
        cached: Tokens that are in the prefix cache, if ``prefix`` is; always, if that is None.
        committed, allocated: KV tokens that hold its context, and that the pool has given it.
    """

    id: int
    prompt: int
    output: int
    max_new_tokens: int
    ignore_eos: bool
    cached: int
    prefix: tuple[int, int] | None = None
    produced: int = 0
    committed: int = 0
    allocated: int = 0

    @property
    def done(self) -> bool:
        return self.produced >= self.output

    @property
    def input_len(self) -> int:
        """``full_untruncated_fill_ids``: a retracted request computes its own output again."""
        return self.prompt + self.produced


class Row(NamedTuple):
    """A step. Requests and KV are those that it leaves behind."""

    kind: str
    step_s: float
    running: int
    queued: int
    kv_tokens: int
    prefill_tokens: int
    tier: int
    decoded: int
    verified: int


class OutOfMemoryError(Exception):
    """SGLang's scheduler ends here: it runs a chunk that the pool cannot hold."""


def captured_batches(server: Server) -> list[int]:
    """``generate_decode_cuda_graph_batch_sizes`` and ``get_batch_sizes_to_capture``; none for a largest one of 0."""
    most, slots = server.capture_requests, server.max_running_requests
    if server.speculative:
        batches = [*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8), *range(272, most + 1, 16)]
    else:
        batches = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, most + 1, 32)]
    batches = [batch for batch in batches if batch <= most] + [most]
    if server.cuda_graph_bs_decode is not None:
        batches = list(server.cuda_graph_bs_decode)
    if max(batches) > slots:
        batches.append(slots)
    return sorted({batch for batch in batches if 0 < batch <= slots})


def min_free_slots(server: Server) -> int:
    """``resolve_min_free_slots``; 0 where prefills are not delayed."""
    slots = server.max_running_requests
    if server.min_free_slots_delay is not None:
        return min(server.min_free_slots_delay, slots)
    return min(4, max(2, (slots + 5) // 6)) if server.speculative and slots >= 8 else 0


class PrefillAdder:
    """``PrefillAdder`` and ``PrefillBudget``: room for more requests in a prefill batch."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        server, running = scheduler.server, scheduler.running
        mixed = len(running) if server.enable_mixed_chunk else 0
        self.rem_chunk_tokens = server.chunked_prefill_size - mixed
        self.rem_input_tokens = server.max_prefill_tokens - mixed
        self.current_offset, self.total_offset = mixed, float(mixed)
        for r in running:
            ratio = 1.0 if r.ignore_eos else scheduler.ratio
            self.total_offset += min(r.max_new_tokens - r.produced, CLIP_MAX_NEW_TOKENS) * ratio
        self.can_run: list[tuple[Request, int]] = []

    @property
    def remaining_total(self) -> float:
        return self.scheduler.free - self.total_offset

    def budget_state(self) -> Verdict:
        if self.remaining_total <= 0 or self.scheduler.free <= self.current_offset:
            return "no token"
        return "other" if self.rem_input_tokens <= 0 or self.rem_chunk_tokens <= 0 else "continue"

    def add_chunked_req(self, request: Request) -> Request | None:
        """Continue a prompt; returns it if it is still incomplete."""
        limit = min(self.rem_chunk_tokens, int(self.remaining_total))
        if limit <= 0:
            limit = self.rem_chunk_tokens
        rest = request.input_len - request.committed
        self._commit(request, min(rest, limit), whole=rest <= limit)
        return request if rest > limit else None

    def add_one_req(self, request: Request) -> Verdict:
        most = self.scheduler.server.prefill_max_requests
        if most is not None and len(self.can_run) >= most:
            return "other"
        prefix = min(request.cached, request.input_len - 1)
        tokens = request.input_len - prefix
        max_new = min(max(request.max_new_tokens - request.produced, 0), CLIP_MAX_NEW_TOKENS)
        # The match is locked before the budget is looked at: it can no longer be evicted.
        if tokens + max_new + 1 >= self.remaining_total - prefix:
            return "no token"
        self.scheduler.allocate(request, prefix)
        request.committed = prefix
        whole = tokens <= self.rem_chunk_tokens
        if not whole:
            tokens = self.rem_chunk_tokens
            self.scheduler.chunked = request
        self._commit(request, tokens, whole)
        return self.budget_state()

    def _commit(self, request: Request, tokens: int, whole: bool) -> None:
        """``_update_prefill_budget``: with one more page, and with the whole possible output."""
        self.can_run.append((request, tokens))
        self.current_offset += tokens + 1
        self.total_offset += tokens + 1 + (min(request.max_new_tokens, CLIP_MAX_NEW_TOKENS) if whole else 0)
        self.rem_chunk_tokens -= tokens
        self.rem_input_tokens -= tokens


class Scheduler:
    """The scheduler, one step at a time.

    Args:
        step_s: Seconds of a step of a kind ("prefill", "graph", "eager") and a size in tokens.
        length: Drafts that a stock server's planner gives every request, where the verify mode has one.
        accepted: Drafts of a block that the target accepts, by request id and output tokens so far.
    """

    def __init__(
        self,
        server: Server,
        kv_tokens: int,
        step_s: Callable[[str, int], float],
        length: int,
        accepted: Callable[[int, int], int],
    ) -> None:
        self.server, self.kv_tokens, self.step_s = server, kv_tokens, step_s
        self.length, self.accepted = length, accepted
        self.width = server.gamma + 1 if server.speculative else 1
        # ``get_alloc_reserve_per_decode``, or the page that a plain request needs.
        self.reserve = 2 * self.width if server.speculative else 1
        self.captured = captured_batches(server)
        self.init_ratio = min(INIT_NEW_TOKEN_RATIO * server.schedule_conservativeness, 1.0)
        self.ratio = self.init_ratio
        self.free = kv_tokens  # ``available_size`` with what the radix cache could evict
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.batch_is_full = False
        self.last_prefill: list[Request] = []  # ``last_batch``, where that was a prefill
        self.chunked: Request | None = None
        self.interval_remaining = 0
        self.prefixes: dict[tuple[int, int], int] = {}  # the least recently used one first
        self.retracted = self.eager = 0
        self.aborted: list[int] = []
        self.finished: list[int] = []

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running or self.last_prefill or self.chunked)

    def receive(self, request: Request) -> None:
        """An arrival: ``init_req_max_new_tokens``, then ``validate_input_length`` against ``max_req_input_len``."""
        request.max_new_tokens = max(0, min(request.max_new_tokens, self.kv_tokens - request.prompt - 2))
        request.output = min(request.output, request.max_new_tokens)
        if request.prompt >= self.kv_tokens - 6:
            # ``set_finish_with_abort``: answered with an error once its turn has come.
            request.prompt, request.output, request.cached, request.prefix = 1, 0, 0, None
        if self._enqueue(request) and request.prefix is not None:
            held = self.prefixes.pop(request.prefix, None)
            self.prefixes[request.prefix] = max(request.cached, held or 0)
            while len(self.prefixes) > 1 and sum(self.prefixes.values()) > self.free:
                del self.prefixes[next(iter(self.prefixes))]
            request.cached = 0 if held is None else request.cached

    def _enqueue(self, request: Request) -> bool:
        """``_add_request_to_queue``, also for retracted requests, with ``_abort_on_queued_limit``."""
        most = self.server.max_queued_requests
        if most is not None and len(self.waiting) + 1 > most:
            self.aborted.append(request.id)
            return False
        self.waiting.append(request)
        return True

    def step(self) -> Row | None:
        """``get_next_batch_to_run`` and its batch, if any."""
        joining = [r for r in self.last_prefill if r is not self.chunked and not r.done]
        staying = [r for r in self.running if not r.done]
        # The flag belongs to the running batch; an empty one is replaced by the batch that joins.
        if len(joining) + len(staying) < len(self.last_prefill) + len(self.running) or not self.running:
            self.batch_is_full = False
        self.running, self.last_prefill = staying + joining, []
        batch = [] if self._defers_prefill() else self._new_prefill()
        if batch:
            self.interval_remaining = self.server.prefill_decode_interval
            return self._run_prefill(batch)
        self._update_running()
        if self.running:
            return self._run_decode()
        if self.idle:
            self.ratio = self.init_ratio  # ``on_idle``
        return None

    def _defers_prefill(self) -> bool:
        """``_should_defer_prefill``"""
        if self.interval_remaining == 0:
            return False
        # With nobody running the idle loop counts it down, faster than any client sends.
        if len(self.running) < max(self.server.prefill_decode_interval_min_bs, 1):
            self.interval_remaining = 0
            return False
        self.interval_remaining -= 1
        return True

    def _new_prefill(self) -> list[tuple[Request, int]]:
        """``_get_new_batch_prefill_raw``: requests, and the tokens that each computes."""
        if not self.running:
            self.batch_is_full = False
        slots = self.server.max_running_requests
        if self.chunked is None:
            if self.batch_is_full or not self.waiting:
                return []
            if self.running and slots - len(self.running) < min_free_slots(self.server):
                return []
            if len(self.running) >= slots:
                self.batch_is_full = True
                return []
        adder = PrefillAdder(self)
        if self.chunked is not None:
            self.chunked = adder.add_chunked_req(self.chunked)
        for request in self.waiting:
            if adder.budget_state() == "other":
                break
            if len(self.running) + len(adder.can_run) >= slots:
                self.batch_is_full = True
            if self.batch_is_full:
                break
            verdict = adder.add_one_req(request)
            if verdict == "no token":
                self.batch_is_full = bool(adder.can_run or self.running)
            if verdict != "continue":
                break
        joining = {request for request, _ in adder.can_run}
        self.waiting = [request for request in self.waiting if request not in joining]
        return adder.can_run

    def _run_prefill(self, batch: list[tuple[Request, int]]) -> Row:
        for request, tokens in batch:
            request.committed += tokens
            self.allocate(request, request.committed)
        if self.free < 0:
            raise OutOfMemoryError
        mixed: list[Request] = []
        # Requests that the pool has no room for sit out the step; it retracts nobody.
        if self.server.enable_mixed_chunk and self._decode_needs(self.running) <= self.free:
            mixed, self.running = self.running, []
        prefilled = sum(tokens for _, tokens in batch)
        tier = prefilled + len(mixed)
        step_s = self.step_s("prefill", tier)
        for request in mixed:
            self.allocate(request, request.committed + self.reserve)
            request.committed += 1
        self.last_prefill = [request for request, _ in batch] + mixed
        for request in self.last_prefill:
            if request is not self.chunked:
                self._emit(request, 1)
        return self._row("mixed" if mixed else "prefill", step_s, prefilled, tier, len(mixed), 0)

    # Decode

    def _decode_needs(self, requests: list[Request]) -> int:
        """``new_tokens_required_next_decode``"""
        return sum(max(0, r.committed + self.reserve - r.allocated) for r in requests)

    def _update_running(self) -> None:
        """``update_running_batch``"""
        if self.running and self._decode_needs(self.running) > self.free:
            self._retract()
            self.batch_is_full = False
        elif self.running:
            least = self.init_ratio * MIN_NEW_TOKEN_RATIO_FACTOR
            self.ratio = max(self.ratio - (self.init_ratio - least) / NEW_TOKEN_RATIO_DECAY_STEPS, least)

    def _retract(self) -> None:
        """``retract_decode``"""
        kept = sorted(self.running, key=lambda r: (r.produced, -r.prompt), reverse=True)
        victims: list[Request] = []
        while len(kept) > 1 and (not victims or self._decode_needs(kept) > self.free):
            victims.append(kept.pop())
            self._release(victims[-1])
        if self._decode_needs(kept) > self.free:
            self._release(kept[0])
            self.aborted.append(kept.pop().id)
        self.running = [r for r in self.running if r in kept]
        # ``estimate_new_token_ratio_after_retract``
        produced = sum(r.produced for r in kept) + RETRACT_DECODE_STEPS * len(kept)
        self.ratio = min(1.0, produced / (sum(r.max_new_tokens for r in kept) + 1))
        self.retracted += len(victims)
        for request in victims:
            request.committed = request.cached = 0
            self._enqueue(request)

    def _run_decode(self) -> Row:
        length, tier, captured = self._layout()
        self.eager += not captured
        step_s = self.step_s("graph" if captured else "eager", tier)
        decoded = len(self.running)
        for request in self.running:
            self.allocate(request, request.committed + self.reserve)
            drafts = min(length, self.accepted(request.id, request.produced)) if length else 0
            tokens = min(drafts + 1, request.output - request.produced)
            request.committed += tokens
            self._emit(request, tokens)
        return self._row("decode", step_s, 0, tier, decoded, decoded * length)

    def _layout(self) -> tuple[int, int, bool]:
        """Drafts verified a request, the tokens that the step is padded to, and whether it runs as a graph.

        Uniform blocks are padded to captured batches, compact ones to the tokens of those
        (``_build_ragged_verify_token_buckets``). Past the last a stock server verifies whole blocks eagerly
        (``ragged_layout_exceeds_captured_grid``).
        """
        requests, mode = len(self.running), self.server.verify_mode
        length = self.width - 1 if mode == "static" else min(self.length, self.width - 1)
        tokens = requests * (length + 1 if mode == "compact" else self.width)
        if not self.captured:
            return length, tokens, True
        if requests > self.captured[-1]:
            return self.width - 1, requests * self.width, False
        return length, min(batch * self.width for batch in self.captured if batch * self.width >= tokens), True

    # Results

    def allocate(self, request: Request, tokens: int) -> None:
        """Allocate KV of a request up to ``tokens``; it never shrinks."""
        self.free -= max(0, tokens - request.allocated)
        request.allocated = max(request.allocated, tokens)

    def _release(self, request: Request) -> None:
        self.free += request.allocated
        request.allocated = 0

    def _emit(self, request: Request, tokens: int) -> None:
        request.produced += tokens
        if request.done:
            self._release(request)
            (self.finished if request.output > 0 else self.aborted).append(request.id)

    def _row(self, kind: str, step_s: float, prefilled: int, *decode: int) -> Row:
        running = sum(r is not self.chunked and not r.done for r in (*self.running, *self.last_prefill))
        used = self.kv_tokens - self.free
        return Row(kind, step_s, running, len(self.waiting), used, prefilled, *decode)
