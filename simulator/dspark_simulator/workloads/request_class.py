"""Request classes: requests of one workload that share a domain, lengths and service levels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dspark_simulator.workloads.lengths import Lengths
from dspark_simulator.workloads.model import Described, Positive

Name = Annotated[str, Field(min_length=1)]


class Slo(Described):
    """Service level that a request must meet to count as goodput: upper bounds in seconds.

    Attributes:
        ttft_s: Longest time to the first token, in seconds.
        tpot_s: Longest mean time per output token after the first, in seconds.
    """

    ttft_s: Positive
    tpot_s: Positive


class RequestClass(Described):
    """Requests that share a domain, their lengths and a service level.

    Attributes:
        name: Name in reports.
        share: Share of the requests, relative to the shares of the other classes.
        domain: Acceptance domain of its texts.
        prompt: Prompt lengths; not needed and not used with a trace, which gives the lengths.
        output: Output lengths; as ``prompt``.
        cached_prefix: Expected fraction of a prompt in the prefix cache when the request arrives.
        prefixes: Number of different prefixes that its requests share. A replica has a prefix cached once it has served
            a request with it, until other requests need the room; 0 means that every replica always has all of them.
        max_new_tokens: The ``max_new_tokens`` that its clients send and SGLang admits by; no output is longer. 0 sends
            the length of the output itself, as benchmarks do.
        ignore_eos: Its clients send ``ignore_eos``, as benchmarks with fixed lengths do; SGLang's admission then
            reserves all of ``max_new_tokens``.
        slo: Service level of each request.
    """

    name: Name
    share: Positive = 1.0
    domain: Name
    prompt: Lengths | None = None
    output: Lengths | None = None
    cached_prefix: Annotated[float, Field(ge=0, le=1)] = 0.0
    prefixes: Annotated[int, Field(ge=0)] = 0
    max_new_tokens: Annotated[int, Field(ge=0)] = 0
    ignore_eos: bool = False
    slo: Slo

    @model_validator(mode="after")
    def _ends_at_the_limit(self) -> RequestClass:
        if self.ignore_eos and self.max_new_tokens:
            raise ValueError("ignore_eos and max_new_tokens exclude each other; drop max_new_tokens")
        return self
