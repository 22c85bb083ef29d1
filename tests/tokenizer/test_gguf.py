"""Tokenizers in GGUF files give the ids of the tokenizer that they were made from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from dllama.errors import DllamaError, TokenizerError
from dllama.formats.t_file import write_t_file
from dllama.tokenizer import ChatTemplate, Tokenizer, load_tokenizer
from dllama.tokenizer.byte_alphabet import write_bytes
from dllama.tokenizer.convert import convert_tokenizer
from dllama.tokenizer.gguf_tokens import TokenType
from dllama.tokenizer.sentencepiece_model import _fields
from support.gguf_bytes import gguf_file, split_part
from support.gguf_tokenizers import byte_level, sentencepiece, write_vocabulary

Reference = Callable[[Path], tokenizers.Tokenizer]

CONTROL, USER_DEFINED = int(TokenType.CONTROL), int(TokenType.USER_DEFINED)


@pytest.fixture(scope="module")
def qwen(qwen_directory: Path) -> dict[str, Any]:
    return byte_level(qwen_directory / "tokenizer.json", "qwen2")


@pytest.fixture(scope="module")
def llama(sentencepiece_json_directory: Path) -> dict[str, Any]:
    return sentencepiece(sentencepiece_json_directory / "tokenizer.json")


def load(folder: Path, values: dict[str, Any], **changes: Any) -> Tokenizer:
    changed = {**values, **changes}
    path = folder / "model.gguf"
    return load_tokenizer(write_vocabulary(path, **{k: v for k, v in changed.items() if v is not None}))


# Ids


def test_byte_level(
    tmp_path: Path, qwen: dict[str, Any], qwen_directory: Path, reference: Reference, nasty_texts: list[str]
) -> None:
    tokenizer, library = load(tmp_path, qwen), reference(qwen_directory)
    for text in nasty_texts:
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True)
    assert tokenizer.vocab_size == library.get_vocab_size()


def test_sentencepiece(
    tmp_path: Path,
    llama: dict[str, Any],
    sentencepiece_json_directory: Path,
    reference: Reference,
    nasty_texts: list[str],
) -> None:
    tokenizer, library = load(tmp_path, llama), reference(sentencepiece_json_directory)
    for text in nasty_texts:
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) == text


def test_no_space_before_text(tmp_path: Path, llama: dict[str, Any], nasty_texts: list[str]) -> None:
    """As Gemma has it."""
    with_space, without = load(tmp_path, llama), load(tmp_path, llama, add_space_prefix=False)
    assert with_space.drops_leading_space
    assert not without.drops_leading_space
    for text in nasty_texts:
        assert without.encode(f" {text}") == with_space.encode(text) or not text
        assert without.decode(without.encode(text)) == text


@pytest.mark.parametrize("squeezes", [False, True])
@pytest.mark.parametrize(
    ("model_type", "rule"), [("bpe", "identity"), ("unigram", "identity"), ("unigram", "nmt_nfkc")]
)
def test_models_of_sentencepiece(
    model_type: str, rule: str, squeezes: bool, tmp_path: Path, nasty_texts: list[str]
) -> None:
    """All that a GGUF file says of a model that the sentencepiece package trained.

    The tokenizers library normalises a character with its accents at a time, which differs for some of them.
    """
    processor = _trained(tmp_path, model_type, squeezes, rule)
    tokenizer = load(tmp_path, _metadata_of(processor, model_type, squeezes))
    texts = [*nasty_texts, "<pad> </s> <0x41> <unk>"] if rule == "identity" else ["Hello", "", " ", "a\tb\nc"]
    for text in [*texts, "  two  spaces, ①②ﬁ ｆｕｌｌ  "]:
        assert tokenizer.encode(text) == processor.encode(text), repr(text)
    ids = processor.encode("Hello world, 12")
    assert tokenizer.decode(ids) == processor.decode(ids)


def _trained(folder: Path, model_type: str, squeezes: bool, rule: str) -> Any:
    package = pytest.importorskip("sentencepiece", reason="the sentencepiece package is not installed")
    corpus = folder / "corpus.txt"
    corpus.write_text(
        "the quick brown fox jumps over a lazy dog\nwhile 1024 bytes don't we'll x == 10\n" * 20
    )
    package.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "m"),
        model_type=model_type,
        vocab_size=330,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name=rule,
        remove_extra_whitespaces=squeezes,
        minloglevel=2,
    )
    return package.SentencePieceProcessor(model_file=str(folder / "m.model"))


def _metadata_of(processor: Any, model_type: str, squeezes: bool) -> dict[str, Any]:
    ids = range(processor.get_piece_size())
    types = [
        TokenType.UNKNOWN if processor.is_unknown(i)
        else TokenType.CONTROL if processor.is_control(i)
        else TokenType.BYTE if processor.is_byte(i)
        else TokenType.NORMAL
        for i in ids
    ]  # fmt: skip
    values: dict[str, Any] = {
        "model": "t5" if model_type == "unigram" else "llama",
        "tokens": [processor.id_to_piece(i) for i in ids],
        "scores": [processor.get_score(i) for i in ids],
        "token_type": [*map(int, types)],
        "unknown_token_id": processor.unk_id(),
        "add_space_prefix": True,
        "remove_extra_whitespaces": squeezes,
    }
    model = processor.serialized_model_proto()
    character_map = _character_map(model)
    return values | ({"precompiled_charsmap": character_map} if character_map else {})


def _character_map(model: bytes) -> bytes:
    """The field of this name in the normaliser's part of a tokenizer.model."""
    normalizer = next(value for number, value in _fields(model) if number == 3)
    assert isinstance(normalizer, bytes)
    found = dict(_fields(normalizer)).get(2, b"")
    assert isinstance(found, bytes)
    return found


def test_merges_of_pieces(tmp_path: Path, llama: dict[str, Any], nasty_texts: list[str]) -> None:
    """As Gemma 4 has it: SentencePiece's pieces and a list of merges."""
    by_scores = load(tmp_path, llama, add_space_prefix=False)
    known, best = set(llama["tokens"]), sorted(range(len(llama["tokens"])), key=lambda i: -llama["scores"][i])
    merges = [
        f"{piece[:cut]} {piece[cut:]}"
        for piece in (llama["tokens"][i] for i in best if llama["token_type"][i] == TokenType.NORMAL)
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    values = {k: v for k, v in llama.items() if k != "scores"}
    for names in ({"model": "gemma4"}, {"model": "gpt2", "pre": "sarvam-moe"}):
        tokenizer = load(tmp_path, values, merges=merges, **names)
        for text in nasty_texts:
            assert tokenizer.encode(text) == by_scores.encode(text), repr(text)
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_user_defined_pieces_are_found_before_anything_merges(tmp_path: Path, llama: dict[str, Any]) -> None:
    """Runs of spaces in Gemma's vocabulary, in both writings, and words of HTML."""
    added = ["  ", "   ", "▁▁▁▁", "<td>", "<td><td>"]
    n = len(llama["tokens"])
    tokenizer = load(
        tmp_path,
        llama,
        tokens=llama["tokens"] + added,
        scores=llama["scores"] + [-1000.0] * len(added),
        token_type=llama["token_type"] + [USER_DEFINED] * len(added),
        add_space_prefix=False,
    )
    the = tokenizer.encode("the")
    assert tokenizer.encode("the   the") == [*the, n + 1, *the]
    assert tokenizer.encode("<td><td><td>the") == [n + 4, n + 3, *the]
    assert tokenizer.decode([n + 2]) == "    "
    assert tokenizer.decode([n + 3]) == "<td>"


def test_bytes_without_a_token_are_left_out(tmp_path: Path, qwen: dict[str, Any]) -> None:
    """As SmolLM2, which lacks 21 of 256."""
    missing = qwen["tokens"].index("ÿ")
    tokens = [*qwen["tokens"]]
    tokens[missing] = "unreachable"
    merges = [merge for merge in qwen["merges"] if "ÿ" not in merge]
    tokenizer = load(tmp_path, qwen, tokens=tokens, merges=merges)
    assert tokenizer.token_bytes(missing) == b"unreachable"
    assert tokenizer.encode("a") == load(tmp_path, qwen).encode("a")


def test_merges_without_tokens_are_left_out(
    tmp_path: Path, qwen: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    plain = load(tmp_path, qwen)
    more = load(tmp_path, qwen, merges=[*qwen["merges"], "q qqqq", "a nothing"])
    assert "2 of" in caplog.text
    assert more.encode("the quick qqqqq") == plain.encode("the quick qqqqq")


def test_tokens_of_tiktoken_need_no_merges(
    tmp_path: Path, tiktoken_directory: Path, nasty_texts: list[str]
) -> None:
    """As some files of Kimi K2."""
    source = load_tokenizer(tiktoken_directory)
    names = {token_id: name for name, token_id in source.special_tokens.items()}
    pieces = [names.get(i) or write_bytes(source.token_bytes(i)) for i in range(source.vocab_size)]
    types = [CONTROL if source.is_special(i) else int(TokenType.NORMAL) for i in range(source.vocab_size)]
    tokenizer = load(tmp_path, {"model": "gpt2", "pre": "kimi-k2", "tokens": pieces, "token_type": types})
    for text in nasty_texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("don't") == source.encode("don't")


# Special tokens and settings


def test_special_tokens(tmp_path: Path, qwen: dict[str, Any]) -> None:
    tokenizer = load(tmp_path, qwen)
    end, think = qwen["tokens"].index("<|im_end|>"), qwen["tokens"].index("<think>")
    assert tokenizer.encode("a<|im_end|>", parse_special=True)[-1] == end
    assert end not in tokenizer.encode("a<|im_end|>")
    assert tokenizer.encode("<think>") == [think]
    assert tokenizer.special_tokens["<|im_end|>"] == end
    assert not tokenizer.is_special(think)
    assert tokenizer.decode([end, *tokenizer.encode("a")]) == "a"


def test_first_and_end_tokens(tmp_path: Path, qwen: dict[str, Any], llama: dict[str, Any]) -> None:
    def settings(values: dict[str, Any], **changes: Any) -> tuple[int | None, bool, tuple[int, ...]]:
        tokenizer = load(tmp_path, values, **changes)
        return tokenizer.bos_id, tokenizer.add_bos, tokenizer.eos_ids

    text, end = (qwen["tokens"].index(name) for name in ("<|endoftext|>", "<|im_end|>"))
    assert settings(qwen) == (None, False, (text, end))
    assert settings(qwen, eos_token_id=end, bos_token_id=text) == (text, False, (end, text))
    assert settings(qwen, bos_token_id=text, add_bos_token=True) == (text, True, (text, end))
    assert settings(qwen, eos_token_id=5, eot_token_id=6, eom_token_id=7) == (
        None,
        False,
        (5, 6, 7, text, end),
    )
    assert settings(qwen, bos_token_id=text, pre="llama-bpe") == (text, True, (text, end))
    assert settings(qwen, add_bos_token=True) == (None, False, (text, end))
    assert settings(llama) == (1, True, (2,))
    assert settings(llama, add_bos_token=False) == (1, False, (2,))


def test_ids_beyond_the_tokens_are_passed_over(
    tmp_path: Path, llama: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert load(tmp_path, llama, eot_token_id=999_999).eos_ids == (2,)
    assert "tokenizer.ggml.eot_token_id is 999999" in caplog.text


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (["<|eot_id|>", "<|eom_id|>", "<|start_header_id|>"], ["<|eot_id|>", "<|eom_id|>"]),
        (["<|end|>", "<|user|>"], ["<|end|>"]),
        (["<|end|>", "<|return|>", "<|call|>"], ["<|return|>", "<|call|>"]),
        (["<start_of_turn>", "<end_of_turn>", "<eos>"], ["<end_of_turn>", "<eos>"]),
        (["<fim_prefix>", "<fim_pad>", "<reponame>"], ["<fim_pad>", "<reponame>"]),
        (["<｜end▁of▁sentence｜>"], ["<｜end▁of▁sentence｜>"]),
    ],
)
@pytest.mark.parametrize("has_types", [True, False])
def test_ends_of_turns_by_name(
    names: list[str], ends: list[str], has_types: bool, tmp_path: Path, qwen: dict[str, Any]
) -> None:
    n = [number for number, kind in enumerate(qwen["token_type"]) if kind == TokenType.NORMAL][-1] + 1
    tokenizer = load(
        tmp_path,
        qwen,
        tokens=[*qwen["tokens"][:n], *names],
        token_type=[*qwen["token_type"][:n], *[CONTROL] * len(names)] if has_types else None,
    )
    wanted = ends if has_types else [name for name in ends if "|" in name or "｜" in name]
    assert tokenizer.eos_ids == tuple(n + names.index(name) for name in wanted)


def test_words_of_html_end_nothing(tmp_path: Path, qwen: dict[str, Any]) -> None:
    tokens, types = [*qwen["tokens"], "</s>"], [*qwen["token_type"], USER_DEFINED]
    assert len(qwen["tokens"]) not in load(tmp_path, qwen, tokens=tokens, token_type=types).eos_ids


def test_chat_templates(tmp_path: Path, qwen: dict[str, Any]) -> None:
    usual, tools = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "{{ tools }}"
    values = {"tokenizer.chat_template": usual, "tokenizer.chat_template.tool_use": tools}
    tokenizer = load(tmp_path, qwen, **values)
    assert tokenizer.chat_template == usual
    assert tokenizer.named_templates == {"tool_use": tools}
    chat = ChatTemplate.of(tokenizer)
    assert chat.with_tools is not chat
    ids = chat.render([{"role": "user", "content": "a<|im_end|>"}], add_generation_prompt=False)
    end = qwen["tokens"].index("<|im_end|>")
    assert ids == [*tokenizer.encode("a<|im_end|>"), end]
    chat.close()
    assert load(tmp_path, qwen).chat_template is None
    assert load(tmp_path, qwen, **{"tokenizer.chat_template.tool_use": tools}).chat_template == tools


def test_phi_3_takes_the_space_after_its_tokens(tmp_path: Path, llama: dict[str, Any]) -> None:
    values = llama | {"tokens": [*llama["tokens"], "<|user|>"], "scores": [*llama["scores"], 0.0]}
    values["token_type"] = [*llama["token_type"], CONTROL]
    user = len(llama["tokens"])
    text = "<|user|>\n\n the"
    the = load(tmp_path, values).encode("the")
    assert load(tmp_path, values, architecture="phi3").encode(text, parse_special=True) == [user, *the]
    assert load(tmp_path, values).encode(text, parse_special=True) != [user, *the]


# Files


def test_directories_and_parts(tmp_path: Path, qwen: dict[str, Any], qwen_directory: Path) -> None:
    file = write_vocabulary(tmp_path / "some.gguf", **qwen)
    ids = load_tokenizer(file).encode("the fox")
    assert load_tokenizer(tmp_path).encode("the fox") == ids
    (tmp_path / "mmproj-some.gguf").write_bytes(b"GGUF")
    assert load_tokenizer(tmp_path).encode("the fox") == ids
    named_otherwise = file.rename(tmp_path / "some.bin")
    assert load_tokenizer(named_otherwise).encode("the fox") == ids
    (tmp_path / "tokenizer.json").write_bytes((qwen_directory / "tokenizer.json").read_bytes())
    assert load_tokenizer(tmp_path).encode("the fox") == ids
    part = tmp_path / "m-00002-of-00002.gguf"
    part.write_bytes(split_part(1, 2, 0, [], b""))
    with pytest.raises(DllamaError, match=r"m-00001-of-00002\.gguf"):
        load_tokenizer(part)


# Bad input


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"model": None}, ["no tokenizer in it"]),
        ({"model": "bert"}, ["'bert'", "gpt2, llama, t5"]),
        ({"model": "rwkv"}, ["'rwkv'"]),
        ({"model": "none"}, ["'none'"]),
        ({"pre": "not-yet-known"}, ["'not-yet-known'", "tokenizer.json"]),
        ({"merges": None}, ["merges"]),
        ({"model": "gemma4", "merges": None}, ["merges"]),
        ({"merges": ["ab"]}, ["'ab'", "no two tokens"]),
        ({"merges": ["a "]}, ["'a '", "no two tokens"]),
        ({"merges": [b"\xff"]}, ["no two tokens"]),
        ({"tokens": None}, ["tokenizer.ggml.tokens"]),
        ({"tokens": 7}, ["tokenizer.ggml.tokens", "not a list of texts"]),
        ({"token_type": [1, 2]}, ["2 entries for"]),
        ({"token_type": [1.0]}, ["float"]),
        ({"token_type": "x"}, ["token_type"]),
        ({"bos_token_id": "x"}, ["bos_token_id"]),
        ({"tokenizer.chat_template": 1}, ["tokenizer.chat_template"]),
        ({"model": "llama"}, ["tokenizer.ggml.scores"]),
        ({"model": "llama", "scores": [0.0]}, ["1 entries for"]),
        ({"model": "t5", "scores": [0.0]}, ["1 entries for"]),
    ],
    ids=str,
)
def test_bad_metadata(
    changes: dict[str, Any], fragments: list[str], tmp_path: Path, qwen: dict[str, Any]
) -> None:
    with pytest.raises(DllamaError) as caught:
        load(tmp_path, qwen, **changes)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "model.gguf"))
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers(score: float, tmp_path: Path, llama: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match="scores"):
        load(tmp_path, llama, scores=[score, *llama["scores"][1:]])


def test_a_damaged_file(tmp_path: Path) -> None:
    for content in (b"GGUF", gguf_file()[:10], b"GGUF" + bytes(100)):
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(DllamaError, match=r"bad\.gguf"):
            load_tokenizer(tmp_path / "bad.gguf")


@pytest.mark.slow
def test_names_that_begin_one_another(tmp_path: Path, qwen: dict[str, Any]) -> None:
    names = ["<" + "a" * n + ">" for n in range(2000)] + ["<" + "a" * n for n in range(2000)]
    tokens, types = qwen["tokens"] + names, qwen["token_type"] + [CONTROL] * len(names)
    tokenizer = load(tmp_path, qwen, tokens=tokens, token_type=types)
    first = len(qwen["tokens"])
    assert tokenizer.encode("<aaa><aa", parse_special=True) == [first + 3, first + 2002]


def test_pieces_without_end(tmp_path: Path, llama: dict[str, Any]) -> None:
    """Each cut of a piece is looked at, of which a million makes no million texts."""
    tokens = [*llama["tokens"]]
    tokens[-1] = "ab" * 500_000
    assert load(tmp_path, llama, tokens=tokens).encode("the") == load(tmp_path, llama).encode("the")


def test_a_likeliest_piece_has_to_be_there(tmp_path: Path, llama: dict[str, Any]) -> None:
    normal = [int(TokenType.NORMAL)] * len(llama["tokens"])
    with pytest.raises(TokenizerError, match="unknown_token_id"):
        load(tmp_path, llama, model="t5", token_type=normal)


def test_converted_to_a_t_file(
    tmp_path: Path, qwen: dict[str, Any], llama: dict[str, Any], nasty_texts: list[str]
) -> None:
    """Which holds all that these two need."""
    for number, values in enumerate((qwen, llama)):
        source = write_vocabulary(tmp_path / f"{number}.gguf", **values)
        write_t_file(tmp_path / f"{number}.t", convert_tokenizer(source))
        by_gguf, by_t = load_tokenizer(source), load_tokenizer(tmp_path / f"{number}.t")
        assert by_t.eos_ids == by_gguf.eos_ids
        for text in nasty_texts:
            assert by_t.encode(text) == by_gguf.encode(text), repr(text)


def test_oddities_are_no_crash(tmp_path: Path, qwen: dict[str, Any], llama: dict[str, Any]) -> None:
    """Tokens twice, empty, or no UTF-8."""
    tokens: list[Any] = [token.encode() for token in qwen["tokens"]] + [b"", b"a", b"\xff", b"\xff"]
    types = [*qwen["token_type"], *[int(TokenType.NORMAL)] * 4]
    tokenizer = load(tmp_path, qwen, tokens=tokens, token_type=types)
    assert tokenizer.encode("a") == load(tmp_path, qwen).encode("a")
    types[-4:] = [CONTROL] * 4
    load(tmp_path, qwen, tokens=tokens, token_type=types).encode("a", parse_special=True)
    load(tmp_path, llama, token_type=[CONTROL] * len(llama["tokens"])).encode("a")
    load(tmp_path, llama, token_type=[99] * len(llama["tokens"])).encode("a")


def test_files_of_before_there_were_names_of_rules(
    tmp_path: Path, qwen: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = load(tmp_path, qwen, pre=None)
    assert "tokenizer.ggml.pre" in caplog.text
    assert tokenizer.decode(tokenizer.encode("the fox, 1234!")) == "the fox, 1234!"


def test_the_metadata_says_what_the_json_says(qwen: dict[str, Any], qwen_directory: Path) -> None:
    """The support code itself: ids are kept."""
    vocabulary = json.loads((qwen_directory / "tokenizer.json").read_bytes())["model"]["vocab"]
    assert all(qwen["tokens"][token_id] == piece for piece, token_id in vocabulary.items())
