"""The `.t` files that conversion writes: what Distributed Llama's reader needs, and what only it cares about."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from dllama.errors import TokenizerError
from dllama.formats.t_file import write_t_file
from dllama.tokenizer import convert_tokenizer, load_tokenizer


def test_scores_and_tokens_of_a_byte_level_vocabulary(qwen_directory: Path) -> None:
    file = convert_tokenizer(qwen_directory)
    tokenizer = load_tokenizer(qwen_directory)
    assert list(file.scores) == [-float(i) for i in range(564)]
    assert file.tokens == [tokenizer.token_bytes(i) for i in range(564)]


def test_a_first_token_is_always_named_and_special_tokens_follow_it(qwen_directory: Path) -> None:
    """Distributed Llama takes the ids from bos upward as special, and fails where there is no bos."""
    file = convert_tokenizer(qwen_directory)
    assert file.bos_id == 560
    assert not file.add_bos


def test_tokens_of_a_sentencepiece_vocabulary(sentencepiece_json_directory: Path) -> None:
    file = convert_tokenizer(sentencepiece_json_directory)
    assert file.tokens[:5] == [b"<unk>", b"<s>", b"</s>", b"<0x00>", b"<0x01>"]
    assert b" the" in file.tokens


def test_scores_of_a_sentencepiece_model_are_its_own(sentencepiece_model: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    scores = [processor.get_score(i) for i in range(processor.vocab_size())]
    assert list(convert_tokenizer(sentencepiece_model).scores) == scores


def test_ids_without_a_token_get_a_name(qwen_directory: Path, tmp_path: Path) -> None:
    values = json.loads((qwen_directory / "tokenizer.json").read_bytes())
    values["model"]["vocab"]["Ġwithahole"] = 570
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    file = convert_tokenizer(tmp_path)
    assert file.tokens[565] == b"<|unused_565|>"
    assert file.tokens[570] == b" withahole"


def test_what_a_t_file_cannot_say_is_said_aloud(
    qwen_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(qwen_directory, tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "tokenizer.json").read_bytes())
    values["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        convert_tokenizer(qwen_directory)
        assert not caplog.messages
        convert_tokenizer(tmp_path)
    assert "differ from the model's own" in caplog.messages[0]


def test_a_t_file_is_not_converted_again(qwen_directory: Path, tmp_path: Path) -> None:
    write_t_file(tmp_path / "x.t", convert_tokenizer(qwen_directory))
    with pytest.raises(TokenizerError, match=r"a \.t file already"):
        convert_tokenizer(tmp_path / "x.t")
