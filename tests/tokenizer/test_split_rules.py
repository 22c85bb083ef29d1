"""How the rules cut text, each with what is particular to it."""

from __future__ import annotations

import unicodedata

import pytest

from dllama.tokenizer.byte_alphabet import CHARACTER_OF_BYTE, read_bytes
from dllama.tokenizer.split_rules import BY_NAME
from dllama.tokenizer.vocabulary import Vocabulary, byte_level_pipeline

BYTES = Vocabulary(pieces=CHARACTER_OF_BYTE, order=range(256), special=frozenset())

EXAMPLES = {
    "default": ("a,b 1234 c", ["a", ",", "b", " ", "123", "4", " c"]),
    "llama-bpe": ("don't 12345\n\n x", ["don", "'t", " ", "123", "45", "\n\n", " x"]),
    "dbrx": ("I'LL (see) 1234", ["I", "'LL", " (", "see", ")", " ", "123", "4"]),
    "qwen2": ("a 123é", ["a", " ", "1", "2", "3", "é"]),
    "qwen35": ("กำ 12", ["กำ", " ", "1", "2"]),
    "tekken": ("HelloWORLDx 12", ["Hello", "WORLDx", " ", "1", "2"]),
    "gpt-4o": ("don't HelloWorld 1234//\n", ["don't", " Hello", "World", " ", "123", "4", "//\n"]),
    "smollm": (" 12 ab", [" ", "1", "2", " ab"]),
    "command-r": ("x  12", ["x", "  ", "1", "2"]),
    "gpt-2": ("we've 123  b", ["we", "'ve", " 123", " ", " b"]),
    "falcon": ("a$$b 12345", ["a", "$$", "b", " ", "123", "45"]),
    "deepseek-llm": ("ab 你好 12\n,.", ["ab", " ", "你好", " ", "12", "\n", ",."]),
    "deepseek-coder": ("ab, 12\n", ["ab", ",", " ", "1", "2", "\n"]),
    "deepseek-v3": ("_ab你好a 1234", ["_ab", "你好", "a", " ", "123", "4"]),
    "bloom": ("a, b...c", ["a", ",", " b", "...", "c"]),
    "viking": ("a12 b", ["a", "1", "2", " b"]),
    "chameleon": ("a    b12", ["a", "    ", "b", "1", "2"]),
    "superbpe": ("ab cd 1234567", ["ab cd ", "1", "234", "567"]),
    "afmoe": ("x 12345", ["x", " ", "12", "345"]),
    "tiny_aya": ("x 12345", ["x", " ", "12", "345"]),
    "bailingmoe": ("I'D\n\nb 12", ["I", "'D", "\n\n", "b", " ", "1", "2"]),
    "seed-coder": ("a(\nb", ["a", "(", "\n", "b"]),
    "exaone-moe": ("가 나 12", ["가 나", " ", "1", "2"]),
    "kimi-k2": ("你好abc漢Xy  漢", ["你好", "abc", "漢", "Xy", " ", " ", "漢"]),
    "youtu": ("한글abc、1", ["한글", "abc", "、", "1"]),
    "jais-2": ("a" + " " * 7 + "b", ["a", " " * 4, "  ", " b"]),
    "laguna": ("a\n\nb 12", ["a", "\n\n", "b", " ", "1", "2"]),
    "spark2_5": ("a!\nb 1234", ["a", "!", "\n", "b", " ", "1", "2", "3", "4"]),
    "minicpm5": ("a 1234", ["a", " ", "123", "4"]),
    "ufakzeka": ("don't", ["don", "'t"]),
}


def cut(name: str, text: str) -> list[str]:
    pipeline = byte_level_pipeline(BYTES, BY_NAME[name], merges=[])
    words = pipeline.pre_tokenizer.pre_tokenize_str(text)
    return [read_bytes(word).decode() for word, _ in words]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    text, words = EXAMPLES[name]
    assert cut(name, text) == words


@pytest.mark.parametrize("name", BY_NAME)
def test_nothing_is_lost(name: str, nasty_texts: list[str]) -> None:
    pipeline = byte_level_pipeline(BYTES, BY_NAME[name], merges=[])
    for text in nasty_texts:
        kept = unicodedata.normalize("NFC", text) if BY_NAME[name].composes else text
        assert pipeline.encode(text).ids == list(kept.encode()), repr(text)


def test_every_rule_that_is_named_has_an_example() -> None:
    """Names that share a rule share its example."""
    shown = {BY_NAME[name].patterns for name in EXAMPLES}
    assert [name for name in BY_NAME if BY_NAME[name].patterns not in shown] == []
