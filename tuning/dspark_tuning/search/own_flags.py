"""Coordinate ascent over the server flags of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm


def own_flags(
    arm_of: Callable[[Server], Arm],
    server: Server,
    flags: Mapping[str, Sequence[Any]],
    score: Callable[[list[Arm]], list[float]],
    has_room: Callable[[Server], bool],
) -> Arm:
    """Set one flag after another to its best value until no single change improves the score.

    Args:
        arm_of: Builds the baseline on a server.
        server: The initial flags, which are kept in a tie.
        flags: Values to try by server field.
        score: Scores of arms, higher is better; equal arms must have equal scores.
        has_room: Whether a server has memory for a request; servers without are skipped.
    """
    scores: dict[str, float] = {}

    def best(servers: list[Server]) -> Server:
        unknown = {key: server for server in servers if (key := server.model_dump_json()) not in scores}
        arms = [arm_of(server)._replace(name=str(i)) for i, server in enumerate(unknown.values())]
        if arms:
            scores.update(zip(unknown, score(arms), strict=True))
        return max(servers, key=lambda server: scores[server.model_dump_json()])

    before = None
    while server != before:
        before = server
        for flag, values in flags.items():
            others = (server.model_copy(update={flag: value}) for value in values)
            server = best([server, *filter(has_room, others)])
    return arm_of(server)
