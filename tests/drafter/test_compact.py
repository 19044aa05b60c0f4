"""Compact checkpoints: smaller files, and equal drafters except for tokens without training."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from sglang_dspark.drafter import checkpoint, compact, families  # noqa: E402
from sglang_dspark.drafter.base import SHARED, WEIGHTS  # noqa: E402
from sglang_dspark.drafter.sparse_markov import ROWS, TABLES  # noqa: E402
from sglang_dspark.errors import InputError  # noqa: E402
from tests.drafter.small import CONFIGS  # noqa: E402

SEEN = [3, 5, 8, 13, 21, 34]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    families.make(CONFIGS["dspark"]).save(tmp_path / "whole")
    return tmp_path / "whole"


def test_rows_of_seen_tokens_are_kept_and_others_are_zeros(whole: Path, tmp_path: Path) -> None:
    compact.shrink(whole, tmp_path / "small", reversed([*SEEN, *SEEN]))
    held = load_file(tmp_path / "small" / WEIGHTS)
    assert held[ROWS].tolist() == SEEN and not set(held) & set(SHARED)
    assert [held[table].shape[0] for table in TABLES] == [6, 6]
    compact.expand(tmp_path / "small", tmp_path / "again")
    before, after = load_file(whole / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert set(after) == set(before) - set(SHARED)
    for name, weight in after.items():
        if name in TABLES:
            unseen = sorted(set(range(len(weight))) - set(SEEN))
            assert torch.equal(weight[SEEN], before[name][SEEN]) and not weight[unseen].any()
        else:
            assert torch.equal(weight, before[name])


def test_both_forms_are_read_alike(whole: Path, tmp_path: Path) -> None:
    compact.shrink(whole, tmp_path / "small", SEEN)
    compact.expand(tmp_path / "small", tmp_path / "again")
    small, again = (checkpoint.load(tmp_path / name) for name in ("small", "again"))
    assert small.shared_absent and again.shared_absent
    for (name, one), other in zip(small.state_dict().items(), again.state_dict().values(), strict=True):
        assert name in SHARED or torch.equal(one, other)


@pytest.mark.parametrize("rows", [[3, 5], [3, 5, 8, 13, 21, 40]])
def test_rows_that_do_not_fit_are_refused(whole: Path, tmp_path: Path, rows: list[int]) -> None:
    compact.shrink(whole, tmp_path / "small", SEEN)
    held = load_file(tmp_path / "small" / WEIGHTS)
    save_file(held | {ROWS: torch.tensor(rows, dtype=torch.int32)}, tmp_path / "small" / WEIGHTS)
    with pytest.raises(InputError, match=r"small: weights do not fit config\.json"):
        checkpoint.load(tmp_path / "small")


def test_other_families_have_no_such_form(tmp_path: Path) -> None:
    families.make(CONFIGS["dflash"]).save(tmp_path / "draft")
    with pytest.raises(InputError, match="has no Markov head"):
        compact.shrink(tmp_path / "draft", tmp_path / "small", SEEN)
