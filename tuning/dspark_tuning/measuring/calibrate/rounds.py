"""Verification rounds from recorded steps: one row per request and step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspark_tuning.measuring.recording.schema import Record

EDGE = 1e-6


class Rounds(NamedTuple):
    """Drafted rounds, in the order of the recording.

    Attributes:
        classes: Names of the request classes.
        slo_class: int64 [N], index in ``classes``.
        request: int64 [N], number of the request; -1 if the server does not report it.
        verified: int64 [N], drafts verified.
        accepted: int64 [N], drafts accepted, at most ``verified``.
        logits: float64 [N, gamma], logits of the confidence head without temperatures; NaN if not recorded.
    """

    classes: tuple[str, ...]
    slo_class: NDArray[np.int64]
    request: NDArray[np.int64]
    verified: NDArray[np.int64]
    accepted: NDArray[np.int64]
    logits: NDArray[np.float64]

    def take(self, which: NDArray[np.bool_]) -> Rounds:
        """The rounds selected by the mask ``which``."""
        return Rounds(
            self.classes,
            self.slo_class[which],
            self.request[which],
            self.verified[which],
            self.accepted[which],
            self.logits[which],
        )

    @property
    def reached(self) -> NDArray[np.bool_]:
        """Whether the target judged a draft, bool [N, gamma]: it was verified, and its prefix accepted."""
        position = np.arange(self.logits.shape[1])
        return (position < self.verified[:, None]) & (position <= self.accepted[:, None])

    @property
    def survived(self) -> NDArray[np.bool_]:
        """Whether the target accepted a draft and all drafts before it, bool [N, gamma]."""
        return np.arange(self.logits.shape[1]) < self.accepted[:, None]


def rounds(record: Record) -> Rounds:
    """Drafted rounds of a recording; empty if the server does not record lengths."""
    gamma = record.gamma
    columns: list[list[NDArray[np.float64]]] = [[], [], [], []]
    logits: list[NDArray[np.float64]] = []
    names: list[str] = []
    numbers: dict[tuple[int, str], int] = {}
    rows = record.steps.select(
        ["run", "kind", "drafted_tokens", "slo_class", "rid", "verify_length", "accepted_length", "confidence"]
    ).to_pylist()
    for row in rows:
        if row["kind"] != "decode" or row["verify_length"] is None or row["drafted_tokens"] == 0:
            continue
        known = record.abouts[row["run"]].classes or ("default",)
        size = len(row["verify_length"])
        listed = row["slo_class"] or [0] * size
        places = {place: _place(names, known[place]) for place in set(listed)}
        rids = row["rid"]
        columns[0].append(np.array([places[place] for place in listed], np.float64))
        columns[1].append(
            np.full(size, -1.0)
            if rids is None
            else np.array([numbers.setdefault((row["run"], rid), len(numbers)) for rid in rids], np.float64)
        )
        columns[2].append(np.array(row["verify_length"], np.float64))
        columns[3].append(np.array(row["accepted_length"], np.float64) - 1)
        confidence = row["confidence"]
        if confidence is None:
            logits.append(np.full((size, gamma), np.nan))
        else:
            inside = np.clip(np.array(confidence, np.float64).reshape(size, gamma), EDGE, 1 - EDGE)
            logits.append(np.log(inside / (1 - inside)))
    if not logits:
        nothing = np.empty(0, np.int64)
        return Rounds((), nothing, nothing, nothing, nothing, np.empty((0, gamma)))
    joined = [np.concatenate(parts).astype(np.int64) for parts in columns]
    return Rounds(tuple(names), joined[0], joined[1], joined[2], joined[3], np.concatenate(logits))


def _place(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
