"""vLLM's batch formation (V1): decoding rounds and prefill chunks share a step under one token budget."""

from __future__ import annotations

from dspark_simulator.costs.numeric import inject_s
from dspark_simulator.engines.base import CaptureFlags, Rules
from dspark_simulator.engines.memory import LAST_ARRIVED, make_room
from dspark_simulator.engines.prefill import finish_prefill, prompt_pairs, take
from dspark_simulator.engines.round import accept, count_step, draft_and_schedule, round_s
from dspark_simulator.engines.slots import abort, fetch, sweep
from dspark_simulator.state import DECODE, IDLE, MIXED, PREFILL, Record
from sglang_dspark.jit import njit
from sglang_dspark.policy import vllm_tiers
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.policy.record import Rule
from sglang_dspark.policy.rule import fits, pad


def receive(prompt: int, output: int, max_new: int, kv_tokens: int) -> tuple[int, int, int]:
    """Apply the scheduler's length limits to an arriving request: ``max_tokens`` ends its output.

    Args:
        max_new: The client's ``max_tokens``; 0 stands for ``output``.
        kv_tokens: KV pool of the server; a request that can never fit is refused when it reaches the head of the queue.

    Returns:
        Prompt, output and ``max_tokens``.
    """
    most = max_new or output
    return prompt, min(output, most), most


@njit(cache=True)
def step(
    state: Record,
    queue: Record,
    server: Record,
    rule: Rule,
    cost: Record,
    acceptance: Record,
    metrics: Record,
    now_s: float,
) -> tuple[float, int]:
    """Run the next step (``Scheduler.schedule``: running requests first, then the queue, FCFS).

    Returns:
        Seconds of the step (0.0 when idle), and the number of requests that it ends.
    """
    s, flags, m = state[0], server[0], metrics[0]
    s.kind, s.prefill_tokens = IDLE, 0
    preempted = m.retracted
    gone = make_room(state, queue, server, metrics, LAST_ARRIVED)
    busy = s.running
    # Admit nothing in a step that preempted a request.
    joined, rejected = _form_prefill(state, queue, server, metrics, m.retracted == preempted)
    gone += rejected
    if busy + joined == 0:
        return 0.0, gone
    tokens, positions, captured = 0, 0, True
    if busy > 0:
        s.kind = DECODE if joined == 0 else MIXED
        tokens, positions = draft_and_schedule(state, server, rule, cost, acceptance, metrics)
    if joined > 0:
        s.kind = PREFILL if busy == 0 else MIXED
        real = s.prefill_tokens
        for r in range(busy):
            real += s.length[r] + 1
        tokens = pad(rule, busy, real)
    s.tier = tokens
    captured = fits(rule, busy, tokens)
    m.eager += not captured
    time_s = round_s(state, server, cost, busy + joined, tokens, captured, positions)
    if joined > 0:
        time_s += cost[0].prefill_context_s * prompt_pairs(state, joined)
        if flags.speculative:
            time_s += inject_s(cost, s.prefill_tokens)
    if busy > 0:
        accept(state, server, metrics, now_s + time_s)
    if joined > 0:
        finish_prefill(state, server, metrics, joined, now_s + time_s)
    count_step(state, metrics, busy, time_s)
    return time_s, gone + sweep(state)


@njit(cache=True)
def _form_prefill(state: Record, queue: Record, server: Record, metrics: Record, admit: bool) -> tuple[int, int]:
    """Fill the rest of ``max_num_batched_tokens`` with prompt chunks.

    Args:
        admit: Admit requests from the queue; otherwise only an incomplete prompt continues.

    Returns:
        Requests that prefill in this step, and requests rejected because they do not fit an empty pool.
    """
    s, flags = state[0], server[0]
    block = flags.gamma + 1 if flags.speculative else 1
    left = flags.max_prefill_tokens - s.running * block
    joined, rejected = 0, 0
    if s.partial:
        slot = s.running
        tokens = min(s.target[slot] - s.context[slot], left, flags.kv_capacity - s.kv_used)
        if tokens <= 0:
            return 0, 0
        take(state, slot, tokens)
        joined = 1
        left -= tokens
        if s.context[slot] + tokens < s.target[slot]:
            return joined, rejected
    while admit and s.queued > 0 and left > 0 and s.running + joined < flags.max_running:
        head = queue[s.queue_head]
        target = head.prompt + head.produced
        cached = min(head.cached, target - 1)
        if target + flags.kv_reserve > flags.kv_capacity:
            abort(metrics, server, head.id, head.slo_class)
            s.queue_head = (s.queue_head + 1) % queue.size
            s.queued -= 1
            rejected += 1
            continue
        tokens = min(target - cached, left)
        if s.kv_used + cached + tokens > flags.kv_capacity:
            break
        slot = s.running + joined
        fetch(state, queue, slot)
        take(state, slot, tokens)
        joined += 1
        left -= tokens
        if tokens < target - cached:
            break
    return joined, rejected


def _captured_requests(flags: CaptureFlags) -> int:
    return min(MAX_REQUESTS, flags.tokens)


RULES = Rules(
    receive,
    step,
    tiers=lambda flags: vllm_tiers(flags.tokens),
    captured_requests=_captured_requests,
    kv_reserve=lambda gamma: gamma + 1,
    min_free_slots=lambda running: 1,
    mixes=True,
    # vLLM measures the memory that it needs besides the pool.
    pool_by_flags=False,
    lacks=(
        "max_queued_requests",
        "cuda_graph_bs_decode",
        "prefill_max_requests",
        "prefill_decode_interval",
        "prefill_decode_interval_min_bs",
        "min_free_slots_delay",
    ),
)
