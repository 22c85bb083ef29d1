"""Ids equal those of the libraries that the models were made with; text to ids to text is the identity."""

from __future__ import annotations

import dataclasses
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from dllama.errors import TokenizerError
from dllama.formats.t_file import TFile, write_t_file
from dllama.tokenizer import Tokenizer, load_tokenizer
from dllama.tokenizer.convert import convert_tokenizer
from dllama.tokenizer.split_rules import LLAMA_3 as LLAMA_3_RULE
from dllama.tokenizer.tiktoken_ranks import SPECIAL_NAMES

Reference = Callable[[Path], tokenizers.Tokenizer]

PIECES = [
    "the",
    " ",
    "  ",
    "\n",
    "\r\n",
    "1",
    "23",
    "'s",
    "don't",
    "é",
    "你",
    "👩‍👧",
    "<",
    "s>",
    "<|im_end|>",
]
any_text = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def _t_file(source: Path, directory: Path) -> Path:
    path = directory / "tokenizer.t"
    write_t_file(path, convert_tokenizer(source))
    return path


@pytest.mark.parametrize("name", ["qwen_directory", "sentencepiece_json_directory", "metaspace_directory"])
def test_ids_of_a_directory_are_the_librarys(
    name: str, reference: Reference, nasty_texts: list[str], request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(name)
    tokenizer, library = load_tokenizer(directory), reference(directory)
    for text in nasty_texts:
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids, repr(text)


@settings(deadline=None)
@given(text=any_text)
def test_ids_of_random_text_are_the_librarys(
    text: str, qwen_directory: Path, metaspace_directory: Path, reference: Reference
) -> None:
    for directory in (qwen_directory, metaspace_directory):
        expected = reference(directory).encode(text, add_special_tokens=False).ids
        assert load_tokenizer(directory).encode(text) == expected


def test_text_to_ids_to_text_is_the_identity(any_directory: Path, nasty_texts: list[str]) -> None:
    tokenizer = load_tokenizer(any_directory)
    for text in nasty_texts:
        same = unicodedata.normalize("NFC", text) if "qwen" in str(any_directory) else text
        if "metaspace" in str(any_directory):
            same = text.removeprefix(" ")  # a text that begins with a space gets no other before it
        assert tokenizer.decode(tokenizer.encode(text)) == same


@pytest.mark.parametrize("name", ["qwen_directory", "tiktoken_directory", "sentencepiece_json_directory"])
def test_a_t_file_gives_the_ids_of_its_source(
    name: str, nasty_texts: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(name)
    source, converted = load_tokenizer(directory), load_tokenizer(_t_file(directory, tmp_path))
    assert converted.vocab_size == source.vocab_size
    assert converted.special_tokens == source.special_tokens
    assert converted.eos_ids == source.eos_ids
    assert converted.add_bos == source.add_bos
    assert converted.chat_template == source.chat_template
    for text in nasty_texts:
        ids = source.encode(text)
        assert converted.encode(text) == ids, repr(text)
        assert converted.decode(ids) == source.decode(ids)


@settings(deadline=None)
@given(text=any_text)
def test_random_text_in_tiktoken(
    text: str, tiktoken_ids: Callable[[str], list[int]], tiktoken_models: list[Tokenizer]
) -> None:
    for tokenizer in tiktoken_models:
        assert tokenizer.encode(text) == tiktoken_ids(text)


@pytest.fixture(scope="module")
def tiktoken_models(tiktoken_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    t_file = _t_file(tiktoken_directory, tmp_path_factory.mktemp("t"))
    return [load_tokenizer(tiktoken_directory), load_tokenizer(t_file)]


@pytest.fixture(scope="module")
def tiktoken_ids(tiktoken_ranks: list[bytes]) -> Callable[[str], list[int]]:
    tiktoken = pytest.importorskip("tiktoken", reason="the tiktoken package is not installed")
    encoding = tiktoken.Encoding(
        "small",
        pat_str=LLAMA_3_RULE.patterns[0],
        mergeable_ranks={token: rank for rank, token in enumerate(tiktoken_ranks)},
        special_tokens={},
    )
    return lambda text: encoding.encode(text, disallowed_special=())


def test_nasty_texts_in_tiktoken(
    nasty_texts: list[str], tiktoken_ids: Callable[[str], list[int]], tiktoken_models: list[Tokenizer]
) -> None:
    for text in nasty_texts:
        for tokenizer in tiktoken_models:
            assert tokenizer.encode(text) == tiktoken_ids(text), repr(text)


def test_nasty_texts_in_sentencepiece(
    nasty_texts: list[str], sentencepiece_model: Path, tmp_path: Path
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    for path in (sentencepiece_model, _t_file(sentencepiece_model, tmp_path)):
        tokenizer = load_tokenizer(path)
        assert (tokenizer.bos_id, tokenizer.eos_ids) == (processor.bos_id(), (processor.eos_id(),))
        for text in nasty_texts:
            ids = processor.encode(text)
            assert tokenizer.encode(text) == ids, repr(text)
            assert tokenizer.decode(ids) == processor.decode(ids)


def test_special_tokens_in_text_stay_text(any_directory: Path) -> None:
    tokenizer = load_tokenizer(any_directory)
    for name, token_id in tokenizer.special_tokens.items():
        assert token_id not in tokenizer.encode(f"a{name} {name}b")
        assert tokenizer.is_special(token_id)
        assert tokenizer.token_bytes(token_id) == name.encode()
        assert tokenizer.decode([token_id]) == ""


def test_a_token_named_as_control_is_special_though_not_flagged(qwen_directory: Path, tmp_path: Path) -> None:
    pipeline = tokenizers.Tokenizer.from_file(str(qwen_directory / "tokenizer.json"))
    pipeline.add_tokens(["<｜User｜>"])
    pipeline.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special_tokens["<｜User｜>"] not in tokenizer.encode("<｜User｜>")


def test_added_tokens_that_are_not_special_are_found_in_text(qwen_directory: Path, tmp_path: Path) -> None:
    for path in (qwen_directory, _t_file(qwen_directory, tmp_path)):
        tokenizer = load_tokenizer(path)
        (token_id,) = tokenizer.encode("<think>")
        assert not tokenizer.is_special(token_id)
        assert tokenizer.decode([token_id]) == "<think>"


def test_bos_comes_first_where_asked_for_and_known(tiktoken_directory: Path, qwen_directory: Path) -> None:
    tokenizer = load_tokenizer(tiktoken_directory)
    assert tokenizer.encode("a", add_bos=True) == [tokenizer.bos_id, *tokenizer.encode("a")]
    assert load_tokenizer(qwen_directory).encode("", add_bos=True) == []


def test_half_a_surrogate_pair_is_refused(any_directory: Path) -> None:
    with pytest.raises(TokenizerError, match="surrogate"):
        load_tokenizer(any_directory).encode("a\ud83d")


def test_ids_outside_the_vocabulary_have_no_text(any_directory: Path) -> None:
    tokenizer = load_tokenizer(any_directory)
    assert tokenizer.decode([tokenizer.vocab_size, -1]) == ""


def test_an_unknown_vocabulary_merges_the_best_score_first(tmp_path: Path) -> None:
    single = [bytes([byte]) for byte in range(256)]
    merged = {b"ab": -1.0, b"bc": 5.0, b"abc": 0.0, b" a": 2.0, b"12": 1.0}
    write_t_file(
        tmp_path / "x.t",
        TFile(
            tokens=[*single, *merged, b"<s>", b"</s>"],
            scores=[0.0] * 256 + [*merged.values(), 0.0, 0.0],
            bos_id=261,
            add_bos=True,
            eos_ids=(262,),
            chat_template=None,
        ),
    )
    tokenizer = load_tokenizer(tmp_path / "x.t")
    tokens = [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode("abc ab12</s>")]
    assert tokens == [b"abc", b" a", b"b", b"12", b"<", b"/", b"s", b">"]
    assert dict(tokenizer.special_tokens) == {"<s>": 261, "</s>": 262}


def test_mistrals_low_special_tokens(sentencepiece_json_directory: Path, tmp_path: Path) -> None:
    t_file = convert_tokenizer(sentencepiece_json_directory)
    assert t_file.bos_id == 1
    tokens = list(t_file.tokens)
    tokens[3:3] = [b"[INST]", b"[/INST]"]
    scores = [0.0, 0.0, *t_file.scores]
    write_t_file(tmp_path / "x.t", dataclasses.replace(t_file, tokens=tokens, scores=scores))
    tokenizer = load_tokenizer(tmp_path / "x.t")
    assert set(tokenizer.special_tokens) == {"<unk>", "<s>", "</s>", "[INST]", "[/INST]"}
    text = "the quick [INST] fox</s>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not set(tokenizer.encode(text)) & set(tokenizer.special_tokens.values())


def test_a_converter_that_took_sentencepieces_characters_for_bytes(
    sentencepiece_json_directory: Path,
    byte_of_character: dict[str, int],
    nasty_texts: list[str],
    tmp_path: Path,
) -> None:
    """Distributed Llama's converter writes `é` of a tokenizer.json as the byte E9."""
    t_file = convert_tokenizer(sentencepiece_json_directory)
    tokens = [
        b"".join(
            bytes([byte_of_character[character]]) if character in byte_of_character else character.encode()
            for character in token.decode().replace(" ", "▁")
        )
        for token in t_file.tokens
    ]
    assert b"\xe9" in tokens
    write_t_file(tmp_path / "x.t", dataclasses.replace(t_file, tokens=tokens))
    tokenizer, source = load_tokenizer(tmp_path / "x.t"), load_tokenizer(sentencepiece_json_directory)
    for text in filter(str.isprintable, nasty_texts):
        assert tokenizer.encode(text) == source.encode(text)


def test_special_names_of_llama_3() -> None:
    assert len(SPECIAL_NAMES) == len(set(SPECIAL_NAMES)) == 256
    assert SPECIAL_NAMES[9] == "<|eot_id|>"
    assert SPECIAL_NAMES[255] == "<|reserved_special_token_246|>"


@given(
    text=st.lists(st.sampled_from([*PIECES, "<|im_start|>", "<|im_end|>", "</s>", "<s>", "<think>"])).map(
        "".join
    )
)
def test_special_tokens_are_parsed_where_they_are_wanted(
    text: str, qwen_directory: Path, metaspace_directory: Path
) -> None:
    """As the library does it; text alone stays what it was."""
    for directory in (qwen_directory, metaspace_directory):
        library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer = load_tokenizer(directory)
        expected = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, parse_special=True) == expected
        assert not any(map(tokenizer.is_special, tokenizer.encode(text)))


def test_a_text_that_begins_with_the_first_token_gets_no_second_one(
    sentencepiece_json_directory: Path,
) -> None:
    tokenizer = load_tokenizer(sentencepiece_json_directory)
    assert (
        tokenizer.encode("<s>[INST]", add_bos=True, parse_special=True).count(tokenizer.special_tokens["<s>"])
        == 1
    )
    assert (
        tokenizer.encode("a<s>", add_bos=True, parse_special=True).count(tokenizer.special_tokens["<s>"]) == 2
    )
    assert tokenizer.encode("<s>", add_bos=True).count(tokenizer.special_tokens["<s>"]) == 1


def test_work_grows_with_the_number_of_parts_and_no_faster(qwen_directory: Path) -> None:
    """100 000 parts (a conversation of some 15 000 messages) take 0.3 s; they took half a minute when each part
    looked at a copy of all."""
    tokenizer = load_tokenizer(qwen_directory)
    end = tokenizer.special_tokens["<|im_end|>"]
    start = time.process_time()
    ids = tokenizer.encode_parts(["a", end] * 50_000)
    assert len(ids) == 100_000
    assert time.process_time() - start < 5


def test_ordinary_added_tokens_are_text_as_pieces_are(tmp_path: Path) -> None:
    """Gemma's runs of spaces are added tokens of U+2581; they were decoded as these characters."""
    pieces = ["<unk>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁▁"]
    pipeline = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece: token_id for token_id, piece in enumerate(pieces)},
            merges=[("▁", "▁")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    pipeline.normalizer = normalizers.Replace(" ", "▁")
    pipeline.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    pipeline.add_tokens([tokenizers.AddedToken("▁▁", normalized=False), "<start▁here>", "<|a▁name|>"])
    pipeline.add_special_tokens(["<bos>", "<eos▁>"])
    pipeline.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    for text in ("a  b", "  a", "   ", "a b    "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_bytes(tokenizer.encode("  ")[0]) == b"  "
    assert tokenizer.decode(tokenizer.encode("<start▁here>")) == pipeline.decode(
        pipeline.encode("<start▁here>").ids
    )
    names = {
        tokenizer.token_bytes(token_id).decode(): token_id for token_id in tokenizer.special_tokens.values()
    }
    assert names == dict(tokenizer.special_tokens)
