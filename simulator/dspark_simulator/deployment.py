"""Parts shared by scenarios and calibrated profiles: the truth of live step times, and the KV pool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator import draws
from dspark_simulator.costs.base import DRAFT_FIXED, DRAFT_FIXED_CENTRE
from dspark_simulator.engines import ENGINES
from dspark_simulator.server import Server
from sglang_dspark.errors import InputError
from sglang_dspark.shapes.kv_pool import FlagCosts, PoolFlags

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Truth(NamedTuple):
    """Difference between live and profiled step times.

    Attributes:
        overhead_s: Additional seconds per step.
        slope: Factor on verify time.
        draft_fixed: Share of one request's measured draft time that is independent of the drafted positions.
    """

    overhead_s: float = 0.0
    slope: float = 1.0
    draft_fixed: float = DRAFT_FIXED_CENTRE


class Live(BaseModel):
    """Distribution of truths around the belief: uniform and independent in all quantities.

    Attributes:
        overhead_s: Lowest and highest additional seconds of a step.
        slope: Lowest and highest factor on verify time.
        draft_fixed: Lowest and highest share of one request's measured draft time that is independent of the drafted
            positions; matters to servers that draft another number of positions than the profile.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    overhead_s: tuple[Seconds, Seconds] = (0.0, 0.0)
    slope: tuple[Factor, Factor] = (1.0, 1.0)
    draft_fixed: tuple[Share, Share] = DRAFT_FIXED

    @model_validator(mode="after")
    def _ordered(self) -> Live:
        for name, (low, high) in self:
            if low > high:
                raise ValueError(f"{name} goes from {low} down to {high}; give the lower end first")
        return self

    def centre(self) -> Truth:
        """The middle of the distribution."""
        return Truth(*(sum(ends) / 2 for _, ends in self))

    def draw(self, seed: int) -> Truth:
        """The truth of ``seed``."""
        return self._at(draws.uniform_of(seed, 0, place, draws.TRUTH) for place in range(len(Truth._fields)))

    def spread(self, count: int) -> list[Truth]:
        """``count`` truths that fill the distribution evenly; always the same ones.

        Each quantity takes the middle of every ``count``-th of its range once, in the order of an additive recurrence
        by the powers of the generalised golden ratio (the R sequence of M. Roberts, 2018), so that quantities are not
        correlated and the first truths already cover the whole range.
        """
        quantities = len(Truth._fields)
        ratio = float(np.roots([1.0, *[0.0] * (quantities - 1), -1.0, -1.0]).real.max())
        steps = ratio ** -np.arange(1.0, quantities + 1)
        sequence = (0.5 + np.outer(np.arange(count), steps)) % 1.0
        ranks = sequence.argsort(axis=0).argsort(axis=0)
        return [self._at(places) for places in ((ranks + 0.5) / count).tolist()]

    def _at(self, places: Iterable[float]) -> Truth:
        """The truth at a point of the unit cube."""
        return Truth(*(low + place * (high - low) for place, (_, (low, high)) in zip(places, self, strict=True)))


class Memory(BaseModel):
    """KV pool of a replica in tokens.

    Attributes:
        kv_tokens: Pool in tokens with the drafter loaded, whose KV is accounted for.
        kv_tokens_without_draft: Pool in tokens of the same server without speculation.
        at: Server flags that the pools were stated for; if None, a scenario sets its server's.
        costs: Memory that flags take from the pool; if None, a scenario sets it from the model's shape where that is
            known. Without it the pools do not depend on flags.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kv_tokens: Annotated[int, Field(ge=1)]
    kv_tokens_without_draft: Annotated[int, Field(ge=1)]
    at: PoolFlags | None = None
    costs: FlagCosts | None = None

    def known(self, server: Server, costs: FlagCosts | None) -> Memory:
        """The pools with ``server``'s flags and ``costs`` where they have none."""
        return self.model_copy(update={"at": self.at or server.pool_flags(), "costs": self.costs or costs})

    def tokens(self, server: Server) -> int:
        """Pool of ``server``, in tokens.

        Raises:
            InputError: The flags of the server leave no pool.
        """
        speculative = server.speculative
        stated = self.kv_tokens if speculative else self.kv_tokens_without_draft
        if self.costs is None or self.at is None or not ENGINES[server.engine].pool_by_flags:
            return stated
        flags = server.pool_flags()
        more = self.costs.taken_bytes(flags, speculative) - self.costs.taken_bytes(self.at, speculative)
        tokens = stated - self.costs.tokens(more, speculative)
        if tokens < 1:
            raise InputError(
                f"server: chunked_prefill_size {flags.chunked_prefill_size}, captured requests "
                f"{flags.captured_requests} and max_running_requests {flags.max_running_requests} take "
                f"{more / 1e9:.1f} GB a GPU from a pool of {stated} tokens; lower one of them"
            )
        return tokens
