"""A damaged table of characters is refused before the library that reads it goes astray in it."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece
from tokenizers import normalizers

from dllama.errors import TokenizerError
from dllama.tokenizer.character_map import check_character_map
from dllama.tokenizer.sentencepiece_model import _fields

TEXTS = [
    "abc ① ﬁ Å é \u0301 한글 \u3000 ｱ \x00\x7f ㍿",
    "".join(map(chr, range(0x20, 0x3000))),
    "🤗 \U0010ffff",
]


@pytest.fixture(scope="module")
def table() -> bytes:
    """That of SentencePiece's own rule nmt_nfkc: 240 kB."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 20), model_writer=model, vocab_size=13,
        normalization_rule_name="nmt_nfkc", minloglevel=2,
    )  # fmt: skip
    normalizer = dict(_fields(model.getvalue()))[3]
    return bytes(dict(_fields(normalizer))[2])


def test_a_sound_table_is_taken(table: bytes) -> None:
    check_character_map(table)
    assert len(table) > 100_000
    assert normalizers.Precompiled(table).normalize_str("①ﬁ") == "1fi"


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\0\0\0",
        bytes(4),
        bytes(100),
        b"\x04\0\0\0" + bytes(5),
        b"\xff\xff\xff\xff" + bytes(64),
        b"\x03\0\0\0" + bytes(64),
    ],
)
def test_what_is_no_table_is_refused(damaged: bytes) -> None:
    with pytest.raises(TokenizerError, match="precompiled_charsmap"):
        check_character_map(damaged)


def test_no_text_leads_out_of_what_is_taken(table: bytes) -> None:
    """The library's panic is no Exception, and would end this test."""
    rng, n_taken = random.Random(4), 0
    for _ in range(150):
        damaged = bytearray(table)
        for _ in range(rng.choice((1, 3, 300))):
            at = rng.randrange(len(damaged))
            damaged[at] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            check_character_map(bytes(damaged))
        except TokenizerError:
            continue
        n_taken += 1
        normalizer = normalizers.Precompiled(bytes(damaged))
        for text in TEXTS:
            normalizer.normalize_str(text)
    assert n_taken > 10
