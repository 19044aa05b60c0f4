"""Agreement between the ranks of a tensor-parallel group: rank 0 decides and broadcasts.

SGLang's confidence relay may be ready on one rank and not on another, and ranks that lay a step out differently hang in
its collectives. So rank 0 broadcasts what it decided, over the group's CPU communicator, which the step's layout has to
wait for on the host anyway. A new policy travels the same way, between steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from sglang_dspark.errors import InputError

PATIENCE: Final = timedelta(minutes=5)
"""How long ranks wait for one that loads its draft more slowly, or that never arrives."""

SAME_FLAGS: Final = "start all hosts with the same flags and variables"
ABOUT: Final = ("policy", "kernels")
TAG: Final = 20260707  # Of these messages alone.


class StepDecision(NamedTuple):
    """Rank 0's decision about a step.

    Attributes:
        tier, cap, draft: As in ``policy.Budget``.
        mode: Value of ``steps.Mode``, from the next step on.
        pending_policy: Bytes of a policy that is in force from the next step on; 0 for none.
    """

    tier: int
    cap: int
    draft: int
    mode: int
    pending_policy: int


class Agreement:
    """A tensor-parallel group that follows its first rank. A group of one costs nothing."""

    def __init__(self, group: Any) -> None:
        """
        Args:
            group: SGLang's ``GroupCoordinator``, or anything with its ``world_size``, ``rank_in_group``, ``ranks`` and
                ``cpu_group``.
        """
        self._group = group
        self._decision = torch.zeros(len(StepDecision._fields), dtype=torch.int64)
        self.leads = group.rank_in_group == 0
        self.alone = group.world_size == 1

    def on_decision(self, mine: StepDecision) -> StepDecision:
        """Broadcast rank 0's decision to all ranks."""
        if self.alone:
            return mine
        if self.leads:
            for i, value in enumerate(mine):
                self._decision[i] = value
        self._broadcast(self._decision)
        return mine if self.leads else StepDecision(*self._decision.tolist())

    def on_text(self, mine: bytes | None, size: int) -> bytes:
        """Broadcast ``size`` bytes of rank 0 to all ranks."""
        if self.alone or self.leads:
            assert mine is not None
            text = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        else:
            text = torch.empty(size, dtype=torch.uint8)
        if not self.alone:
            self._broadcast(text)
        return text.numpy().tobytes()

    def on_each(self, mine: Sequence[bool]) -> list[list[bool]]:
        """Gather flags of all ranks, by rank; ``mine`` is of the same length on all.

        Raises:
            InputError: As :meth:`_meet`.
        """
        self._meet("kernels")
        return self._gather(mine)

    def _gather(self, mine: Sequence[bool]) -> list[list[bool]]:
        holds = torch.zeros((self._group.world_size, len(mine)), dtype=torch.int64)
        holds[self._group.rank_in_group] = torch.tensor(mine, dtype=torch.int64)
        if not self.alone:
            dist.all_reduce(holds, group=self._group.cpu_group)
        return [[bool(value) for value in rank] for rank in holds.tolist()]

    def check_same(self, text: bytes, name: str) -> None:
        """Compare a file's hash between ranks.

        Raises:
            InputError: On every rank, where any of them has other content than rank 0; as :meth:`_meet`.
        """
        self._meet("policy")
        if self.alone:
            return
        digest = torch.frombuffer(bytearray(hashlib.sha256(text).digest()), dtype=torch.uint8).clone()
        first = digest.clone()
        self._broadcast(first)
        # Every rank must stop, not only the one that differs: the others would wait for it.
        for rank, (same,) in enumerate(self._gather([torch.equal(first, digest)])):
            if not same:
                raise InputError(f"{name}: rank {rank} has other content than rank 0; copy one file to all hosts")

    def _meet(self, about: str) -> None:
        """Wait until all ranks are about to agree on the same subject, for at most :data:`PATIENCE`.

        By messages to rank 0 and back: a collective call would wait for a rank that does not arrive, or pair with
        the next collective of that rank.

        Raises:
            InputError: A rank does not arrive, or for another subject: their hosts were started with other flags.
        """
        if self.alone:
            return
        mine, same = torch.tensor([ABOUT.index(about)]), torch.ones(1, dtype=torch.int64)
        first, *others = self._group.ranks
        rank = first
        try:
            if self.leads:
                for rank in others:
                    theirs = torch.zeros_like(mine)
                    _finish(dist.irecv(theirs, rank, self._group.cpu_group, TAG))
                    same &= theirs == mine
                for rank in others:
                    _finish(dist.isend(same, rank, self._group.cpu_group, TAG))
            else:
                _finish(dist.isend(mine, first, self._group.cpu_group, TAG))
                _finish(dist.irecv(same, first, self._group.cpu_group, TAG))
        except RuntimeError as error:
            why = f"rank {rank} does not answer within {PATIENCE.total_seconds():.0f} s"
            raise InputError(f"--speculative-dspark-{about}: {why}; {SAME_FLAGS}") from error
        if not same:
            raise InputError(f"--speculative-dspark-{about}: ranks would agree on different things; {SAME_FLAGS}")

    def _broadcast(self, values: torch.Tensor) -> None:
        dist.broadcast(values, src=self._group.ranks[0], group=self._group.cpu_group)


def _finish(message: Any) -> None:
    message.wait(PATIENCE)
