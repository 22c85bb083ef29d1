"""Merges are found again from the vocabulary that they made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers

from dllama._native import piece_cuts
from dllama.tokenizer.merges import every_merge, trained_merges


def test_trained_merges_are_those_of_the_training(qwen_directory: Path) -> None:
    model = json.loads((qwen_directory / "tokenizer.json").read_bytes())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = trained_merges([p for p in pieces if len(p) > 1], [p for p in pieces if len(p) == 1])
    assert merges == [tuple(merge) for merge in model["merges"]]


@given(words=st.lists(st.text(alphabet="ab", min_size=2, max_size=12), min_size=1, max_size=9))
def test_trained_merges_of_few_letters(words: list[str]) -> None:
    """Runs of one letter are where the left of two equal merges has to come first."""
    pipeline = Tokenizer(models.BPE())
    pipeline.train_from_iterator(words, trainers.BpeTrainer(vocab_size=30, show_progress=False))
    model = json.loads(pipeline.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = trained_merges([p for p in pieces if len(p) > 1], [p for p in pieces if len(p) == 1])
    pipeline.model = models.BPE(vocab=model["vocab"], merges=merges)
    again = Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]]))
    for word in words:
        assert pipeline.encode(word).ids == again.encode(word).ids


@given(
    pieces=st.lists(st.text(alphabet="ab▁é你\U0001f600\0", max_size=6), max_size=60),
    symbols=st.lists(st.text(alphabet="ab", max_size=2), max_size=4),
)
def test_every_merge_is_every_pair(pieces: list[str], symbols: list[str]) -> None:
    known = {*pieces, *symbols}
    assert list(every_merge(pieces, symbols)) == [
        (piece[:cut], piece[cut:])
        for piece in dict.fromkeys(pieces)
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]


def test_every_merge_is_every_pair_in_order() -> None:
    merges = every_merge(["a", "b", "c", "bc", "ab", "abc"])
    assert list(merges) == [
        ("b", "c"),
        ("a", "b"),
        ("a", "bc"),
        ("ab", "c"),
    ]


@pytest.mark.parametrize(
    ("ends", "n_cut", "error", "message"),
    [
        ([1, 3], 3, ValueError, "n_cut"),
        ([1, 3], -1, ValueError, "n_cut"),
        ([3, 1], 2, ValueError, "ends must rise"),
        ([-1, 3], 2, ValueError, "ends must rise"),
        ([1, 4], 2, ValueError, "ends must rise within the text"),
        ([1.0, 3.0], 2, TypeError, "ends must be int64"),
    ],
)
def test_ends_of_pieces_are_checked(
    ends: list[float], n_cut: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        piece_cuts(b"abc", np.array(ends), n_cut)
