"""Launchers wrapped for another device keep tensor layouts and in-place writes; the CPU stands for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tests.kernels.on_device import on_device


class Pair(NamedTuple):
    one: torch.Tensor
    other: torch.Tensor | None


def test_layouts_are_kept_and_writes_come_back() -> None:
    base = torch.arange(24.0).view(4, 6)
    rows, column = base[1:, :4], base[:, 5]
    seen: list[torch.Tensor] = []

    def launcher(pair: Pair, *, out: torch.Tensor, name: str) -> Pair:
        seen.extend((pair.one, out))
        assert name == "a" and pair.other is None
        out += 100.0
        return Pair(pair.one * 2, None)

    result = on_device(launcher, torch.device("cpu"))(Pair(rows, None), out=column, name="a")
    assert [one.stride() for one in seen] == [rows.stride(), column.stride()]
    assert seen[0].data_ptr() != rows.data_ptr() and torch.equal(seen[0], rows)
    # The copies share one storage, as the originals do.
    assert seen[0].untyped_storage().data_ptr() == seen[1].untyped_storage().data_ptr()
    assert column.tolist() == [105.0, 111.0, 117.0, 123.0]
    assert result.other is None and torch.equal(result.one, rows * 2)


def test_integers_keep_their_bits() -> None:
    given = torch.tensor([-1, 1 << 62])
    assert on_device(lambda value: value.clone(), torch.device("cpu"))(given).tolist() == given.tolist()
