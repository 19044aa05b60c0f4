"""Flags of a simulated server, and the record in which an engine reads them."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator.engines import ENGINES, CaptureFlags, EngineName
from dspark_simulator.state import CAP_ACCEPT, COMPACT, SERVER, STATIC, Record
from dspark_simulator.workloads import RequestClass
from sglang_dspark.errors import InputError
from sglang_dspark.policy.belief import MAX_GAMMA, MAX_REQUESTS
from sglang_dspark.shapes.kv_pool import PoolFlags

# ``SGLANG_INIT_NEW_TOKEN_RATIO``, ``SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR``, ``SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS``.
INIT_NEW_TOKEN_RATIO = 0.7
MIN_NEW_TOKEN_RATIO_FACTOR = 0.14
NEW_TOKEN_RATIO_DECAY_STEPS = 600

# ``_handle_dspark`` sets 48 running requests under DSPARK by default; without speculation the KV pool is the limit, up
# to the size of a replica's arrays.
DEFAULT_RUNNING = {True: 48, False: MAX_REQUESTS}

UNLIMITED = 1 << 62

MODES = {"static": STATIC, "cap-accept": CAP_ACCEPT, "compact": COMPACT}

Count = Annotated[int, Field(ge=1)]
Requests = Annotated[int, Field(ge=1, le=MAX_REQUESTS)]


class Server(BaseModel):
    """Server flags, under SGLang's names where it has them.

    Attributes:
        engine: Engine whose batch formation is simulated.
        speculative: False serves without DSpark: nothing is drafted, and the drafter's memory holds KV instead.
        gamma: Drafts per block (``--speculative-dspark-block-size``).
        verify_mode: ``SGLANG_RAGGED_VERIFY_MODE``.
        max_running_requests: ``--max-running-requests``; 48 by default under speculation, 1024 without it.
        max_queued_requests: ``--max-queued-requests``: the longest queue; SGLang. A request that finds it full is
            refused. No limit if None.
        capture_requests: Requests of the largest captured batch (``--cuda-graph-max-bs-decode``); SGLang. 0 captures
            and pads nothing, as on a CPU.
        cuda_graph_bs_decode: List of captured batches (``--cuda-graph-bs-decode``), in place of ``capture_requests``;
            SGLang.
        capture_tokens: Largest captured step in tokens (``max_cudagraph_capture_size``); vLLM.
        chunked_prefill_size: Prompt tokens of one prefill step; SGLang.
        max_prefill_tokens: Prompt tokens of one prefill step (SGLang), tokens of any step
            (``max_num_batched_tokens``, vLLM).
        prefill_max_requests: ``--prefill-max-requests``: requests of one prefill step; SGLang. No limit if None.
        prefill_decode_interval: ``--prefill-decode-interval``: decode steps from one prefill step to the next; SGLang.
        prefill_decode_interval_min_bs: ``--prefill-decode-interval-min-bs``: running requests below which the interval
            is ignored; SGLang.
        min_free_slots_delay: ``--min-free-slots-delay``: free slots that a prefill waits for while requests run;
            SGLang. 1 does not wait. If None: up to 4 under speculation with 8 running requests or more
            (``resolve_min_free_slots``), otherwise 1.
        enable_mixed_chunk: Running requests take one token each in a prefill step; SGLang disables it under most
            speculative algorithms.
        schedule_conservativeness: Multiplies the first ``new_token_ratio``.
        confidence_lag_steps: Age of the confidences that the budget is computed from
            (``SGLANG_DSPARK_CONFIDENCE_RELAY_LAG_STEPS``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    engine: EngineName = "sglang"
    speculative: bool = True
    gamma: Annotated[int, Field(ge=1, le=MAX_GAMMA)] = 7
    verify_mode: Literal["static", "cap-accept", "compact"] = "static"
    max_running_requests: Requests = Field(default_factory=lambda flags: DEFAULT_RUNNING[flags["speculative"]])
    max_queued_requests: Count | None = None
    capture_requests: Annotated[int, Field(ge=0, le=MAX_REQUESTS)] = 512
    cuda_graph_bs_decode: Annotated[tuple[Requests, ...], Field(min_length=1)] | None = None
    capture_tokens: Count = 1024
    chunked_prefill_size: Count = 16384
    max_prefill_tokens: Count = 16384
    prefill_max_requests: Count | None = None
    prefill_decode_interval: Annotated[int, Field(ge=0)] = 0
    prefill_decode_interval_min_bs: Annotated[int, Field(ge=0)] = 0
    min_free_slots_delay: Count | None = None
    enable_mixed_chunk: bool = False
    schedule_conservativeness: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    confidence_lag_steps: Literal[1, 2] = 2

    @model_validator(mode="after")
    def _fits(self) -> Server:
        if self.enable_mixed_chunk and self.chunked_prefill_size <= self.max_running_requests:
            raise ValueError("chunked_prefill_size must exceed max_running_requests with enable_mixed_chunk; raise it")
        if self.cuda_graph_bs_decode is not None and self.capture_requests == 0:
            raise ValueError(
                "cuda_graph_bs_decode lists captured batches and capture_requests 0 captures none; drop one"
            )
        for name in ENGINES[self.engine].lacks:
            if getattr(self, name) != Server.model_fields[name].default:
                raise ValueError(f"{name} is a flag that {self.engine} does not have; remove it")
        return self

    def without_speculation(self) -> Server:
        """The same server without DSPARK, with the default limit on running requests unless one is stated."""
        stated = "max_running_requests" in self.model_fields_set
        running = self.max_running_requests if stated else DEFAULT_RUNNING[False]
        return self.model_copy(update={"speculative": False, "max_running_requests": running})

    def tiers(self) -> NDArray[np.int64]:
        """Captured step sizes in verify tokens, int64 ascending; empty where nothing is captured."""
        return ENGINES[self.engine].tiers(self._capture_flags())

    def captured_requests(self) -> int:
        """Largest batch that runs captured; every batch counts as captured where nothing is."""
        return ENGINES[self.engine].captured_requests(self._capture_flags())

    def _capture_flags(self) -> CaptureFlags:
        return CaptureFlags(
            requests=self.capture_requests,
            batches=self.cuda_graph_bs_decode,
            tokens=self.capture_tokens,
            running=self.max_running_requests,
            gamma=self.gamma if self.speculative else 0,
        )

    def min_free_slots(self) -> int:
        """Free slots that a prefill waits for while requests run."""
        slots = self.max_running_requests
        if self.min_free_slots_delay is not None:
            return min(self.min_free_slots_delay, slots)
        return ENGINES[self.engine].min_free_slots(slots) if self.speculative else 1

    def pool_flags(self) -> PoolFlags:
        """The flags that decide how much memory is left for the KV pool."""
        return PoolFlags(
            max_running_requests=self.max_running_requests,
            captured_requests=self.captured_requests() if self.capture_requests else 0,
            chunked_prefill_size=self.chunked_prefill_size,
            gamma=self.gamma,
        )

    def record(self, classes: tuple[RequestClass, ...], kv_tokens: int) -> Record:
        """The flags as a SERVER record, shape (1,).

        Raises:
            InputError: The pool holds no request.
        """
        record = np.zeros(1, SERVER)
        flags = record[0]
        flags["speculative"] = self.speculative
        flags["gamma"] = self.gamma
        flags["mode"] = MODES[self.verify_mode] if self.speculative else COMPACT
        flags["mixes"] = ENGINES[self.engine].mixes
        flags["lag"] = self.confidence_lag_steps
        flags["max_running"] = self.max_running_requests
        flags["chunk_tokens"] = self.chunked_prefill_size
        flags["max_prefill_tokens"] = self.max_prefill_tokens
        flags["mixed_chunk"] = self.enable_mixed_chunk
        flags["min_free_slots"] = self.min_free_slots()
        flags["prefill_interval"] = self.prefill_decode_interval
        flags["prefill_interval_min_running"] = self.prefill_decode_interval_min_bs
        flags["prefill_requests"] = self.prefill_max_requests or MAX_REQUESTS
        flags["max_queued"] = self.max_queued_requests or UNLIMITED
        flags["kv_capacity"] = kv_tokens
        flags["kv_reserve"] = self._kv_reserve()
        first = min(INIT_NEW_TOKEN_RATIO * self.schedule_conservativeness, 1.0)
        least = min(first * MIN_NEW_TOKEN_RATIO_FACTOR, 1.0)
        flags["ratio_first"], flags["ratio_least"] = first, least
        flags["ratio_decay"] = (first - least) / NEW_TOKEN_RATIO_DECAY_STEPS
        for i, klass in enumerate(classes):
            flags["ignore_eos"][i] = klass.ignore_eos
            flags["ttft_s"][i] = klass.slo.ttft_s
            flags["tpot_s"][i] = klass.slo.tpot_s
        if kv_tokens <= self._kv_reserve():
            raise InputError(f"memory: kv_tokens: {kv_tokens} holds no request; give more than {self._kv_reserve()}")
        return record

    def _kv_reserve(self) -> int:
        """KV tokens that a running request must hold beyond its context."""
        return ENGINES[self.engine].kv_reserve(self.gamma) if self.speculative else 1
