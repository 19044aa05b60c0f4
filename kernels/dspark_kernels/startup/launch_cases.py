"""Launcher calls on tensors without storage: one for every launch configuration, and all that one server makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, heads, verify_lengths
from dspark_kernels.batches import DraftBatch, KeptProposal, VerifiedBatch
from dspark_kernels.launch_configs import GpuTarget, ScanConfig
from dspark_kernels.startup.served_shapes import GAMMA, VOCAB, ServedShapes, absent_ranks

SEED: Final = 1 << 40


class LaunchCase(NamedTuple):
    """A call that launches kernels, and its name in reports."""

    name: str
    call: Callable[[], object]


def all_cases(target: GpuTarget) -> Iterator[LaunchCase]:
    """Every case that a server may launch on ``target``."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        half = dtype != torch.float32
        served = ServedShapes.of(dtype, gamma=2)
        for rows in _rows(target.draft if half else target.single):
            # float16 compiles to the same instructions as bfloat16.
            for sample, kept in ((True, False), (False, False), (True, True))[: 1 if dtype == torch.float16 else 3]:
                how = ("sampled" if sample else "greedy") + (", kept" if kept else "")
                yield LaunchCase(f"vanilla {name} R {rows} {how}", _draft(served, rows, sample, kept))
        rows_max = _rows(target.draft if half else target.single)[-1]
        for kind in KINDS[1:]:
            of_kind = served._replace(kind=kind)
            yield LaunchCase(f"{kind} {name} R {rows_max} sampled", _draft(of_kind, rows_max, True, False))
        served = served._replace(gamma=GAMMA)
        for rows in _rows(target.residual if half else target.single):
            yield LaunchCase(f"{name} R {rows}", _accept(served, rows, "recompute"))
        yield LaunchCase(f"{name} kept", _accept(served, 16, "kept"))
        yield LaunchCase(f"{name} greedy draft", _accept(served, 16, "one-hot"))
        # A server of a 2-byte model passes float32 target logits.
        if half:
            given = served._replace(target=torch.float32)
            yield LaunchCase(f"{name}, float32 target", _accept(given, _rows(target.residual)[-1], "recompute"))
    # DeepSeek-V4 keeps float32 logits, and drafts from them where its head runs in float32.
    for logits in (torch.bfloat16, torch.float32):
        served = ServedShapes(gamma=2, logits=logits, kept=torch.float32)
        name = f"vanilla bfloat16, {str(logits).removeprefix('torch.')} logits"
        for rows in _rows(target.wide or target.draft):
            yield LaunchCase(f"{name} R {rows} sampled, float32 kept", _draft(served, rows, True, True))
    shard = heads.Shard(VOCAB // 8, VOCAB // 4, absent_ranks(8))
    for rows in (1, 64):
        served = ServedShapes(gamma=2, shard=shard)
        yield LaunchCase(f"shard of 8, R {rows}", _draft(served, rows, True, True))
        yield LaunchCase(f"shard of 8, R {rows}", _accept(served, rows, "recompute"))
    yield LaunchCase("bfloat16", _confidence(ServedShapes(), 64))
    for requests, gamma in ((16, 7), (1024, 16)):
        for factor in (False, True):
            yield LaunchCase(
                f"R {requests} gamma {gamma}{' weighted' if factor else ''}", _lengths(requests, gamma, factor)
            )


def server_cases(served: ServedShapes, stages: frozenset[str]) -> Iterator[Callable[[], object]]:
    """The calls that one server makes, at every batch size."""
    # Target logits are contiguous where SGLang copied them, otherwise a view that leaves out the padding.
    strides = [served._replace(target_stride=stride) for stride in {0, served.target_stride}]
    proposals = ("one-hot",) if served.greedy else ("recompute", "kept")
    for rows in range(1, served.requests + 1):
        if "draft" in stages:
            for kept in (False,) if served.greedy else (True, False):
                yield _draft(served, rows, not served.greedy, kept)
        if "confidence" in stages:
            yield _confidence(served, rows)
            yield _confidence(served, rows, temperatures=1)
        if "lengths" in stages:
            yield _lengths(rows, served.gamma, False, cap=rows)
            yield _lengths(rows, served.gamma, True, cap=rows)
        if "accept" in stages:
            for of_stride in strides:
                for proposal in proposals:
                    yield _accept(of_stride, rows, proposal, top_k=False, top_p=False)
    if "accept" in stages:
        for of_stride in strides:
            for top_k, top_p in ((True, False), (False, True), (True, True)):
                yield _accept(of_stride, 1, proposals[-1], top_k, top_p)


KINDS: Final[tuple[heads.Kind, ...]] = ("vanilla", "gated", "rnn")


def _rows(table: tuple[ScanConfig, ...]) -> list[int]:
    return [scan.block_rows for scan in table]


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ints(*shape: int) -> torch.Tensor:
    return _empty(*shape, dtype=torch.int64)


def _head(served: ServedShapes) -> heads.MarkovHead:
    w1 = _empty(served.vocab, served.rank, dtype=served.w1)
    w2 = _empty(served.vocab, served.rank, dtype=served.w2)[served.columns]
    if served.kind == "vanilla":
        return heads.MarkovHead(served.kind, w1, w2)
    chunks = heads.CHUNKS[served.kind]
    inputs = served.hidden + served.rank * (2 if served.kind == "rnn" else 1)
    joint = _empty(chunks * served.rank, inputs, dtype=served.w1)
    return heads.MarkovHead(served.kind, w1, w2, joint, _empty(chunks * served.rank, dtype=served.w1))


def _base_logits(served: ServedShapes, rows: int) -> torch.Tensor:
    width = served.columns.stop - served.columns.start
    return _empty(rows, served.gamma, served.stride or width, dtype=served.logits)[:, :, :width]


def _kept(served: ServedShapes, rows: int) -> torch.Tensor:
    return _empty(rows, served.gamma, served.vocab, dtype=served.kept)[:, :, served.columns]


def _draft(served: ServedShapes, rows: int, sample: bool, kept: bool) -> Callable[[], object]:
    def call() -> object:
        batch = DraftBatch(
            _head(served),
            _base_logits(served, rows),
            _ints(rows),
            _empty(rows, served.gamma, served.hidden, dtype=served.w1),
            _empty(rows),
            _ints(rows),
            _ints(rows),
            SEED,
        )
        written = _kept(served, rows) if kept else None
        return draft.draft_block(batch, sample=sample, shard=served.shard, kept=written)

    return call


def _accept(
    served: ServedShapes, rows: int, proposal_from: str, top_k: bool = True, top_p: bool = True
) -> Callable[[], object]:
    """Acceptance of drafts whose proposal is recomputed (``recompute``), read (``kept``) or one-hot."""

    def call() -> object:
        gamma, recompute = served.gamma, proposal_from == "recompute"
        latents = None
        if recompute and served.kind != "vanilla":
            latents = _empty(rows, gamma, served.rank, dtype=served.w2)
        proposal = KeptProposal(
            _base_logits(served, rows) if recompute else _kept(served, rows),
            _empty(rows, gamma),
            _empty(rows, gamma),
            _empty(rows),
            _head(served) if recompute else None,
            latents,
            _ints(rows),
            served.shard,
        )
        target = _empty(rows * (gamma + 1), served.target_stride or served.vocab, dtype=served.target)
        batch = VerifiedBatch(
            target[:, : served.vocab],
            _ints(rows),
            _empty(rows, dtype=torch.int32),
            _ints(rows, gamma),
            None if proposal_from == "one-hot" else proposal,
            _empty(rows),
            _ints(rows),
            _ints(rows),
            SEED,
            _empty(rows, dtype=torch.int32) if top_k else None,
            _empty(rows) if top_p else None,
        )
        return acceptance.accept(batch)

    return call


def _confidence(served: ServedShapes, rows: int, temperatures: int = 0) -> Callable[[], object]:
    return lambda: confidence.confidence_block(
        _empty(rows, served.gamma, served.hidden, dtype=served.w1),
        _ints(rows),
        _ints(rows, served.gamma),
        _empty(served.hidden + (served.rank if served.markov else 0)),
        _empty(1) if served.bias else None,
        _empty(temperatures or served.gamma),
        _empty(served.vocab, served.rank, dtype=served.w1) if served.markov else None,
    )


def _lengths(requests: int, gamma: int, factor: bool, cap: int | None = None) -> Callable[[], object]:
    def call() -> object:
        double = torch.float64
        more: dict[str, Any] = {
            "weights": _empty(16, dtype=double),
            "price": _empty(1, dtype=double),
            "classes": _ints(requests),
            "context": _ints(requests),
        }
        given = _empty(1, dtype=torch.int32) if cap is None else cap
        return verify_lengths.verify_lengths(
            _empty(requests, gamma),
            given,
            floor=1e-6,
            least=1,
            most=gamma,
            **(more if factor else {}),
        )

    return call
