"""Calls of every launcher at every configuration, on tensors without storage: what `dspark kernels check` compiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, heads, targets, verify_lengths
from dspark_kernels.residual_scan import Proposal

VOCAB, RANK, GAMMA, HIDDEN = 151_936, 256, 7, 4096


class Specimen(NamedTuple):
    """A call that launches kernels, and what tells it from others."""

    name: str
    call: Callable[[], object]


def specimens(target: targets.Target) -> Iterator[Specimen]:
    """Everything that a server may launch on ``target``."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        half = dtype != torch.float32
        for rows in _rows(target.draft if half else target.single):
            # float16 takes bfloat16's instructions.
            for sample, kept in ((True, False), (False, False), (True, True))[: 1 if dtype == torch.float16 else 3]:
                how = ("sampled" if sample else "greedy") + (", kept" if kept else "")
                yield Specimen(f"vanilla {name} R {rows} {how}", _draft("vanilla", dtype, rows, sample, kept))
        rows_max = _rows(target.draft if half else target.single)[-1]
        for kind in ("gated", "rnn"):
            yield Specimen(f"{kind} {name} R {rows_max} sampled", _draft(kind, dtype, rows_max, True, False))
        for rows in _rows(target.residual if half else target.single):
            yield Specimen(f"{name} R {rows}", _accept(dtype, rows, "again", dtype))
        yield Specimen(f"{name} kept", _accept(dtype, 16, "kept", dtype))
        yield Specimen(f"{name} greedy draft", _accept(dtype, 16, "certain", dtype))
        # What a server of a 2-byte model gives: its target's logits are float32.
        if half:
            yield Specimen(
                f"{name}, float32 target", _accept(dtype, _rows(target.residual)[-1], "again", torch.float32)
            )
    yield Specimen("bfloat16", lambda: _confidence(64))
    for requests, gamma in ((16, 7), (1024, 16)):
        for factor in (False, True):
            yield Specimen(
                f"R {requests} gamma {gamma}{' weighted' if factor else ''}", _lengths(requests, gamma, factor)
            )


def _rows(table: tuple[targets.Scan, ...]) -> list[int]:
    return [scan.block_rows for scan in table]


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ints(*shape: int) -> torch.Tensor:
    return _empty(*shape, dtype=torch.int64)


def _head(kind: heads.Kind, dtype: torch.dtype) -> heads.MarkovHead:
    w1, w2 = _empty(VOCAB, RANK, dtype=dtype), _empty(VOCAB, RANK, dtype=dtype)
    if kind == "vanilla":
        return heads.MarkovHead(kind, w1, w2)
    chunks = heads.CHUNKS[kind]
    inputs = HIDDEN + RANK * (2 if kind == "rnn" else 1)
    joint = _empty(chunks * RANK, inputs, dtype=dtype)
    return heads.MarkovHead(kind, w1, w2, joint, _empty(chunks * RANK, dtype=dtype))


def _draft(kind: heads.Kind, dtype: torch.dtype, rows: int, sample: bool, kept: bool) -> Callable[[], object]:
    return lambda: draft.draft_block(
        _head(kind, dtype),
        _empty(rows, 2, VOCAB, dtype=dtype),
        _ints(rows),
        hidden=_empty(rows, 2, HIDDEN, dtype=dtype),
        temperatures=_empty(rows),
        requests=_ints(rows),
        positions=_ints(rows),
        seed=1 << 40,
        sample=sample,
        kept=_empty(rows, 2, VOCAB, dtype=dtype) if kept else None,
    )


def _accept(dtype: torch.dtype, rows: int, how: str, target: torch.dtype) -> Callable[[], object]:
    def call() -> object:
        proposal = Proposal(
            _empty(rows, GAMMA, VOCAB, dtype=dtype),
            _empty(rows, GAMMA),
            _empty(rows, GAMMA),
            _empty(rows),
            _head("vanilla", dtype) if how == "again" else None,
            None,
            _ints(rows),
        )
        return acceptance.accept(
            _empty(rows * (GAMMA + 1), VOCAB, dtype=target),
            _ints(rows),
            _empty(rows, dtype=torch.int32),
            _ints(rows, GAMMA),
            None if how == "certain" else proposal,
            temperatures=_empty(rows),
            top_ks=_empty(rows, dtype=torch.int32),
            top_ps=_empty(rows),
            requests=_ints(rows),
            positions=_ints(rows),
            seed=1 << 40,
        )

    return call


def _confidence(rows: int) -> object:
    return confidence.confidence_block(
        _empty(rows, GAMMA, HIDDEN, dtype=torch.bfloat16),
        _ints(rows),
        _ints(rows, GAMMA),
        _empty(HIDDEN + RANK),
        _empty(1),
        _empty(GAMMA),
        _empty(VOCAB, RANK, dtype=torch.bfloat16),
    )


def _lengths(requests: int, gamma: int, factor: bool) -> Callable[[], object]:
    def call() -> object:
        double = torch.float64
        more: dict[str, Any] = {
            "weights": _empty(16, dtype=double),
            "price": _empty(1, dtype=double),
            "classes": _ints(requests),
            "context": _ints(requests),
        }
        cap = _empty(1, dtype=torch.int32)
        return verify_lengths.verify_lengths(
            _empty(requests, gamma), cap, floor=1e-6, least=1, most=gamma, **(more if factor else {})
        )

    return call
