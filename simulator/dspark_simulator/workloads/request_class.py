"""Kinds of requests in one stream."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dspark_simulator.workloads.lengths import Lengths
from dspark_simulator.workloads.model import Described, Positive

Name = Annotated[str, Field(min_length=1)]


class Slo(Described):
    """The service level that a request must meet to count as goodput: seconds, each an upper bound."""

    ttft_s: Positive
    tpot_s: Positive


class RequestClass(Described):
    """Requests that share a domain, their lengths and a service level.

    Attributes:
        name: what reports call it.
        share: its part of the requests, relative to the other classes' shares.
        domain: name of the acceptance domain that its texts belong to.
        prompt: lengths of the prompts. Not needed, nor used, where a trace gives the lengths.
        output: lengths of the outputs; as ``prompt``.
        cached_prefix: fraction of a prompt that is expected in the prefix cache when the request arrives.
        prefixes: how many different prefixes its requests share. A replica has one cached once it has served a request
            with it, until others take its room; 0 means that every replica always has them all.
        max_new_tokens: what its clients send as ``max_new_tokens``, by which SGLang admits; 0 means the length of
            the output itself, as benchmarks do. No output is longer.
        ignore_eos: its clients send ``ignore_eos``, as benchmarks with fixed lengths do, so SGLang admits others
            beside them as though each wrote all of ``max_new_tokens``.
        slo: the service level of each of its requests.
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
            raise ValueError("ignore_eos makes every output end at its own length; drop max_new_tokens")
        return self
