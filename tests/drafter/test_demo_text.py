"""The corpus: training and held-out documents are disjoint, and prompts are reproducible."""

from __future__ import annotations

import pytest

pytest.importorskip("tokenizers")

from sglang_dspark.demo.text import CLASSES, documents, held_out
from sglang_dspark.errors import InputError


def test_split_has_no_overlap() -> None:
    trained = {document.name.partition("#docstrings")[0] for document in documents() if not document.held_out}
    held = {document.name.partition("#docstrings")[0] for document in documents() if document.held_out}
    assert trained.isdisjoint(held)
    texts = {document.text for document in documents() if not document.held_out}
    assert not [document.name for document in documents() if document.held_out and document.text in texts]
    for klass in CLASSES:
        sizes = {True: 0, False: 0}
        for document in documents():
            if document.klass == klass:
                sizes[document.held_out] += len(document.text)
        assert 0.03 < sizes[True] / sum(sizes.values()) < 0.15, klass


@pytest.mark.parametrize("klass", CLASSES)
def test_prompts_are_held_out_passages(klass: str) -> None:
    prompts = held_out(klass, 6, 40, seed=3)  # type: ignore[arg-type]
    assert prompts == held_out(klass, 6, 40, seed=3)  # type: ignore[arg-type]
    assert prompts != held_out(klass, 6, 40, seed=4)  # type: ignore[arg-type]
    sources = [document.text for document in documents() if document.klass == klass and document.held_out]
    for prompt in prompts:
        # A passage may begin or end inside a character.
        assert any(prompt.strip("\ufffd") in text for text in sources)


def test_bad_requests_for_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="class: 'poetry'"):
        held_out("poetry", 1, 40, seed=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tokens: no held-out prose document"):
        held_out("prose", 1, 10**6, seed=0)
