"""The `.t` files that conversion writes: what Distributed Llama's reader needs, and what only it cares about."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dllama.errors import TokenizerError
from dllama.formats.t_file import TFile, write_t_file
from dllama.tokenizer import Tokenizer, convert_tokenizer, load_tokenizer
from dllama.tokenizer.byte_alphabet import write_bytes
from support.real_models import SMOLLM2, needs_smollm2


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


def by_way_of_a_t_file(source: Path, folder: Path) -> Tokenizer:
    write_t_file(folder / "x.t", convert_tokenizer(source))
    return load_tokenizer(folder / "x.t")


def test_byte_pieces_that_are_the_bytes_themselves(
    sentencepiece_model: Path, tmp_path: Path, nasty_texts: list[str]
) -> None:
    """What Distributed Llama's converter makes of a tokenizer.model was taken for byte-level, with other ids."""
    named = convert_tokenizer(sentencepiece_model)
    pieces = {f"<0x{byte:02X}>".encode(): bytes([byte]) for byte in range(256)}
    tokens = [pieces.get(token, token) for token in named.tokens]
    assert tokens != named.tokens
    write_t_file(tmp_path / "raw.t", dataclasses.replace(named, tokens=tokens))
    raw, own = load_tokenizer(tmp_path / "raw.t"), load_tokenizer(sentencepiece_model)
    for text in nasty_texts:
        assert raw.encode(text) == own.encode(text), text
        assert raw.decode(raw.encode(text)) == own.decode(own.encode(text)), text


def test_bytes_in_order_that_come_but_once_are_byte_level(tmp_path: Path) -> None:
    """As in Tekken's vocabulary."""
    tokens = [b"<s>", b"</s>", *(bytes([byte]) for byte in range(256)), b" a", b"ab"]
    scores = [-float(token_id) for token_id in range(len(tokens))]
    file = TFile(tokens=tokens, scores=scores, bos_id=0, add_bos=True, eos_ids=(1,), chat_template=None)
    write_t_file(tmp_path / "x.t", file)
    assert load_tokenizer(tmp_path / "x.t").encode(" ab") == [258, 2 + ord("b")]


MISSING = (0x04, 0xC0, 0xF5)


@pytest.fixture
def smol_directory(tmp_path: Path, nasty_texts: list[str]) -> Path:
    """As SmolLM's: digits one by one, then GPT-2's pattern; special tokens first; some bytes have no token."""
    pipeline = tokenizers.Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    pipeline.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"],
        initial_alphabet=[write_bytes(bytes([byte])) for byte in range(256) if byte not in MISSING],
        show_progress=False,
    )
    pipeline.train_from_iterator([text for text in nasty_texts if "\4" not in text] * 3, trainer)
    (tmp_path / "smol").mkdir()
    pipeline.save(str(tmp_path / "smol" / "tokenizer.json"))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (tmp_path / "smol" / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path / "smol"


def test_a_vocabulary_in_which_bytes_are_missing(
    smol_directory: Path, tmp_path: Path, nasty_texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    own, converted = load_tokenizer(smol_directory), by_way_of_a_t_file(smol_directory, tmp_path)
    (message,) = caplog.messages
    assert "3 of the 256 bytes have no token (04 C0 F5)" in message
    for text in [*nasty_texts, "a\4b", "\4"]:
        assert converted.encode(text) == own.encode(text), text
    assert own.decode(own.encode("a\4b")) == converted.decode(converted.encode("a\4b")) == "ab"


@needs_smollm2
def test_smollm2(tmp_path: Path, nasty_texts: list[str]) -> None:
    own, converted = load_tokenizer(SMOLLM2), by_way_of_a_t_file(SMOLLM2, tmp_path)
    for text in [*nasty_texts, Path(__file__).read_text(encoding="utf-8")]:
        assert converted.encode(text) == own.encode(text), text


def test_a_tokenizer_that_merges_nothing(tmp_path: Path) -> None:
    pipeline = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581a", -1.0), ("b", -2.0)], 0))
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace()
    pipeline.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    pipeline.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: .*Unigram"):
        convert_tokenizer(tmp_path)
