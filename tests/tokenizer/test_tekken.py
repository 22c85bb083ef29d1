"""Mistral's tekken.json. With the real ones of mistral-common 1.13.1, 309 texts (prose, code, fuzz) had its ids."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dllama.errors import TokenizerError
from dllama.tokenizer.load import load_tokenizer
from dllama.tokenizer.split_rules import TEKKEN

N_SPECIAL = 30
MERGED = [b"he", b"ll", b"hell", b"hello", b" w", b"or", "é".encode(), b"ab"]


def vocabulary() -> list[dict[str, Any]]:
    tokens = [bytes([byte]) for byte in range(256)] + MERGED
    return [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]


def write(folder: Path, **changes: Any) -> Path:
    """The last two of the vocabulary are not used."""
    config = {
        "pattern": TEKKEN.patterns[0],
        "num_vocab_tokens": 264,
        "default_vocab_size": N_SPECIAL + 262,
        "default_num_special_tokens": N_SPECIAL,
        "version": "v3",
    }
    values: dict[str, Any] = {"config": config | changes.pop("config", {}), "vocab": vocabulary()} | changes
    path = folder / "tekken.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    return path


def test_ids_follow_the_special_tokens(tmp_path: Path) -> None:
    write(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    first = N_SPECIAL + 256
    assert tokenizer.encode("hello w") == [first + 3, first + 4]
    assert tokenizer.encode("hello") == [first + 3]
    assert tokenizer.encode("é") == [N_SPECIAL + byte for byte in "é".encode()]
    assert tokenizer.encode("hell", add_bos=True) == [1, first + 2]
    assert tokenizer.vocab_size == N_SPECIAL + 262
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))


def test_special_tokens_are_found_where_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("[INST]hell[/INST]", parse_special=True) == [3, N_SPECIAL + 258, 4]
    assert 3 not in tokenizer.encode("[INST]hell[/INST]")
    assert tokenizer.special_tokens["<SPECIAL_29>"] == 29


def test_special_tokens_that_are_listed(tmp_path: Path) -> None:
    listed = [
        {"rank": rank, "token_str": name, "is_control": True}
        for rank, name in ((0, "<s>"), (1, "</s>"), (7, "[THINK]"))
    ]
    write(tmp_path, special_tokens=listed)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, (1,))
    assert tokenizer.special_tokens["[THINK]"] == 7
    assert "[INST]" not in tokenizer.special_tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"pattern": r"\w+"}}, "it cuts text by"),
        ({"config": {"default_vocab_size": 1000}}, "has no list of 970 tokens"),
        ({"config": {"default_vocab_size": 1 << 40}}, "numbers of tokens cannot be"),
        ({"config": {"default_num_special_tokens": 0}}, "numbers of tokens cannot be"),
        ({"config": {"default_num_special_tokens": 5}}, "special token .* cannot be"),
        ({"vocab": [*vocabulary()[1:], *vocabulary()]}, "has the rank 1"),
        ({"vocab": [{"token_bytes": "?", "rank": 0}] * 300}, "token 0 is none in base64"),
        ({"vocab": [vocabulary()[65] | {"rank": rank} for rank in range(300)]}, "255 of the 256 bytes"),
        ({"special_tokens": [{"rank": 3, "token_str": "x"}]}, "has no <s>"),
        ({"special_tokens": [{"rank": rank, "token_str": "<s>"} for rank in (0, 1)]}, "have one name"),
        ({"special_tokens": "?"}, "special token None cannot be"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TokenizerError, match="no sound tekken"):
        load_tokenizer(tmp_path)
