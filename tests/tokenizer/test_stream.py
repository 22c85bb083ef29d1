"""A stream gives what decode gives, in whole characters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllama.tokenizer import StreamDecoder, Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizers(
    qwen_directory: Path, sentencepiece_json_directory: Path, metaspace_directory: Path
) -> list[Tokenizer]:
    return [load_tokenizer(d) for d in (qwen_directory, sentencepiece_json_directory, metaspace_directory)]


def pieces_of(stream: StreamDecoder, ids: list[int]) -> list[str]:
    return [*(stream.feed(token_id) for token_id in ids), stream.flush()]


@given(seed=st.lists(st.integers(0, 699), max_size=30))
def test_the_stream_of_any_ids_is_their_text(seed: list[int], tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers:
        ids = [number % tokenizer.vocab_size for number in seed]
        assert "".join(pieces_of(StreamDecoder(tokenizer), ids)) == tokenizer.decode(ids)


@given(text=st.text(max_size=40))
def test_valid_text_never_shows_a_broken_character(text: str, tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers:
        pieces = pieces_of(StreamDecoder(tokenizer), tokenizer.encode(text))
        assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")
        assert pieces[-1] == ""


def byte_id(tokenizer: Tokenizer, byte: int) -> int:
    (token_id,) = (
        i
        for i in range(tokenizer.vocab_size)
        if tokenizer.token_bytes(i) == bytes([byte]) and not tokenizer.is_special(i)
    )
    return token_id


def test_an_emoji_in_four_tokens_appears_with_the_last(tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers[:2]:
        stream = StreamDecoder(tokenizer)
        texts = [stream.feed(byte_id(tokenizer, byte)) for byte in "🦙".encode()]
        assert texts == ["", "", "", "🦙"]


def test_bytes_are_replaced_once_they_cannot_be_completed(tokenizers: list[Tokenizer]) -> None:
    for tokenizer in tokenizers[:2]:
        stream = StreamDecoder(tokenizer)
        assert stream.feed(byte_id(tokenizer, 0xE4)) == ""
        assert stream.feed(byte_id(tokenizer, 0xBD)) == ""
        assert stream.feed(byte_id(tokenizer, 0xC3)) == "\ufffd"
        assert stream.flush() == "\ufffd"
        assert stream.flush() == ""


def test_sentencepieces_first_space(tokenizers: list[Tokenizer]) -> None:
    tokenizer = tokenizers[1]
    ids = tokenizer.encode("the fox")
    assert tokenizer.token_bytes(ids[0]).startswith(b" ")
    assert "".join(pieces_of(StreamDecoder(tokenizer), ids)) == "the fox"
    assert "".join(pieces_of(StreamDecoder(tokenizer), [1, *ids])) == "the fox"
    assert "".join(pieces_of(StreamDecoder(tokenizer, continues=True), ids)) == " the fox"
    assert "".join(pieces_of(StreamDecoder(tokenizer), tokenizer.encode("  fox"))) == "  fox"
