"""Calls of every launcher on tensors without storage: at every configuration, and as one server makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import torch

from dspark_kernels import acceptance, confidence, draft, heads, targets, verify_lengths
from dspark_kernels.residual_scan import Proposal

VOCAB, RANK, GAMMA, HIDDEN = 151_936, 256, 7, 4096


class Specimen(NamedTuple):
    """A call that launches kernels, and what tells it from others."""

    name: str
    call: Callable[[], object]


class Served(NamedTuple):
    """What a server launches kernels on: shapes and dtypes, which decide the code that they compile to.

    Attributes:
        requests: The most that run at once.
        logits, w1, w2, kept, target: Of base logits, the head's matrices, kept logits and the target's logits.
        bias, markov: Whether the confidence head has a bias, and reads the embedding of the token before.
    """

    kind: heads.Kind = "vanilla"
    vocab: int = VOCAB
    rank: int = RANK
    hidden: int = HIDDEN
    gamma: int = GAMMA
    requests: int = 1024
    logits: torch.dtype = torch.bfloat16
    w1: torch.dtype = torch.bfloat16
    w2: torch.dtype = torch.bfloat16
    kept: torch.dtype = torch.bfloat16
    target: torch.dtype = torch.float32
    bias: bool = True
    markov: bool = True

    @classmethod
    def of(cls, dtype: torch.dtype, **fields: Any) -> Served:
        """Of one dtype throughout, target included."""
        return cls(logits=dtype, w1=dtype, w2=dtype, kept=dtype, target=dtype, **fields)

    def flags(self) -> str:
        """The shapes and dtypes as options of ``python -m dspark_kernels.bench``; requests and the confidence head
        aside."""
        named = {
            name: str(value).removeprefix("torch.")
            for name, value in self._asdict().items()
            if name not in ("requests", "bias", "markov")
        }
        return " ".join(f"--{name} {value}" for name, value in named.items())


def specimens(target: targets.Target) -> Iterator[Specimen]:
    """Everything that a server may launch on ``target``."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        half = dtype != torch.float32
        served = Served.of(dtype, gamma=2)
        for rows in _rows(target.draft if half else target.single):
            # float16 takes bfloat16's instructions.
            for sample, kept in ((True, False), (False, False), (True, True))[: 1 if dtype == torch.float16 else 3]:
                how = ("sampled" if sample else "greedy") + (", kept" if kept else "")
                yield Specimen(f"vanilla {name} R {rows} {how}", _draft(served, rows, sample, kept))
        rows_max = _rows(target.draft if half else target.single)[-1]
        for kind in KINDS[1:]:
            of_kind = served._replace(kind=kind)
            yield Specimen(f"{kind} {name} R {rows_max} sampled", _draft(of_kind, rows_max, True, False))
        served = served._replace(gamma=GAMMA)
        for rows in _rows(target.residual if half else target.single):
            yield Specimen(f"{name} R {rows}", _accept(served, rows, "again"))
        yield Specimen(f"{name} kept", _accept(served, 16, "kept"))
        yield Specimen(f"{name} greedy draft", _accept(served, 16, "certain"))
        # What a server of a 2-byte model gives: its target's logits are float32.
        if half:
            given = served._replace(target=torch.float32)
            yield Specimen(f"{name}, float32 target", _accept(given, _rows(target.residual)[-1], "again"))
    # DeepSeek-V4: float32 logits are kept, and drafted from where its head is computed so. In larger batches some
    # registers spill on sm_100 and gfx942.
    for logits in (torch.bfloat16, torch.float32):
        served = Served(gamma=2, logits=logits, kept=torch.float32)
        name = f"vanilla bfloat16, {str(logits).removeprefix('torch.')} logits"
        for rows in (rows for rows in _rows(target.draft) if rows <= 64):
            yield Specimen(f"{name} R {rows} sampled, float32 kept", _draft(served, rows, True, True))
    yield Specimen("bfloat16", _confidence(Served(), 64))
    for requests, gamma in ((16, 7), (1024, 16)):
        for factor in (False, True):
            yield Specimen(
                f"R {requests} gamma {gamma}{' weighted' if factor else ''}", _lengths(requests, gamma, factor)
            )


def of_server(served: Served, stages: frozenset[str]) -> Iterator[Callable[[], object]]:
    """The calls that a server makes, at every number of requests."""
    for rows in range(1, served.requests + 1):
        if "draft" in stages:
            yield _draft(served, rows, True, True)
            yield _draft(served, rows, True, False)
        if "confidence" in stages:
            yield _confidence(served, rows)
        if "lengths" in stages:
            yield _lengths(rows, served.gamma, False)
            yield _lengths(rows, served.gamma, True)
        if "accept" in stages:
            for how in ("again", "kept", "certain"):
                yield _accept(served, rows, how, top_k=False, top_p=False)
    if "accept" in stages:
        for top_k, top_p in ((True, False), (False, True), (True, True)):
            yield _accept(served, 1, "kept", top_k, top_p)


KINDS: Final[tuple[heads.Kind, ...]] = ("vanilla", "gated", "rnn")


def _rows(table: tuple[targets.Scan, ...]) -> list[int]:
    return [scan.block_rows for scan in table]


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ints(*shape: int) -> torch.Tensor:
    return _empty(*shape, dtype=torch.int64)


def _head(served: Served) -> heads.MarkovHead:
    w1 = _empty(served.vocab, served.rank, dtype=served.w1)
    w2 = _empty(served.vocab, served.rank, dtype=served.w2)
    if served.kind == "vanilla":
        return heads.MarkovHead(served.kind, w1, w2)
    chunks = heads.CHUNKS[served.kind]
    inputs = served.hidden + served.rank * (2 if served.kind == "rnn" else 1)
    joint = _empty(chunks * served.rank, inputs, dtype=served.w1)
    return heads.MarkovHead(served.kind, w1, w2, joint, _empty(chunks * served.rank, dtype=served.w1))


def _draft(served: Served, rows: int, sample: bool, kept: bool) -> Callable[[], object]:
    return lambda: draft.draft_block(
        _head(served),
        _empty(rows, served.gamma, served.vocab, dtype=served.logits),
        _ints(rows),
        hidden=_empty(rows, served.gamma, served.hidden, dtype=served.w1),
        temperatures=_empty(rows),
        requests=_ints(rows),
        positions=_ints(rows),
        seed=1 << 40,
        sample=sample,
        kept=_empty(rows, served.gamma, served.vocab, dtype=served.kept) if kept else None,
    )


def _accept(served: Served, rows: int, how: str, top_k: bool = True, top_p: bool = True) -> Callable[[], object]:
    """``how``: the proposal is computed again, was kept, or was certain of each draft."""

    def call() -> object:
        gamma = served.gamma
        latents = None
        if how == "again" and served.kind != "vanilla":
            latents = _empty(rows, gamma, served.rank, dtype=served.w2)
        proposal = Proposal(
            _empty(rows, gamma, served.vocab, dtype=served.logits if how == "again" else served.kept),
            _empty(rows, gamma),
            _empty(rows, gamma),
            _empty(rows),
            _head(served) if how == "again" else None,
            latents,
            _ints(rows),
        )
        return acceptance.accept(
            _empty(rows * (gamma + 1), served.vocab, dtype=served.target),
            _ints(rows),
            _empty(rows, dtype=torch.int32),
            _ints(rows, gamma),
            None if how == "certain" else proposal,
            temperatures=_empty(rows),
            top_ks=_empty(rows, dtype=torch.int32) if top_k else None,
            top_ps=_empty(rows) if top_p else None,
            requests=_ints(rows),
            positions=_ints(rows),
            seed=1 << 40,
        )

    return call


def _confidence(served: Served, rows: int) -> Callable[[], object]:
    return lambda: confidence.confidence_block(
        _empty(rows, served.gamma, served.hidden, dtype=served.w1),
        _ints(rows),
        _ints(rows, served.gamma),
        _empty(served.hidden + (served.rank if served.markov else 0)),
        _empty(1) if served.bias else None,
        _empty(served.gamma),
        _empty(served.vocab, served.rank, dtype=served.w1) if served.markov else None,
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
