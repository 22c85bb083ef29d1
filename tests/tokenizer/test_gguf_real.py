"""Real vocabularies in GGUF files: the ids that llama.cpp's own tests expect, and those of published tokenizers."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from dllama.tokenizer import ChatTemplate, load_tokenizer
from dllama.tokenizer.pipeline import is_control_name
from support.gguf_tokenizers import byte_level, sentencepiece, write_vocabulary
from support.real_models import (
    GEMMA3_GGUF,
    SMOLLM2,
    SMOLLM2_GGUF,
    needs_gemma3_gguf,
    needs_smollm2,
    needs_smollm2_gguf,
)

VOCABULARIES = sorted((Path(__file__).parents[3] / "shared" / "real" / "gguf-vocab").glob("*.gguf"))
BETWEEN = "\n__ggml_vocab_test__\n"

TOKENIZERS = Path(__file__).parents[2] / ".real-models" / "tokenizers"
PUBLISHED: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "llama2": sentencepiece,
    "llama3": functools.partial(byte_level, pre="llama-bpe"),
    "llama3_1": functools.partial(byte_level, pre="llama-bpe"),
    "qwen3": functools.partial(byte_level, pre="qwen2"),
    "gemma3": lambda path: sentencepiece(path) | {"add_space_prefix": False},
    "gptoss": functools.partial(byte_level, pre="gpt-4o"),
    "deepseek_v3": functools.partial(byte_level, pre="deepseek-v3"),
    "gpt4o": functools.partial(byte_level, pre="gpt-4o"),
}


@pytest.mark.skipif(not VOCABULARIES, reason="shared/real/gguf-vocab is not beside the repository")
@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.stem.removeprefix("ggml-vocab-"))
def test_expected_ids(path: Path) -> None:
    tokenizer = load_tokenizer(path)
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().split(BETWEEN)
    lines = path.with_suffix(".gguf.out").read_text().split("\n")
    expected = [[*map(int, line.split())] for line in lines]
    assert len(texts) == len(expected) > 40
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PUBLISHED if (TOKENIZERS / name).is_dir()] or [None])
def test_published_tokenizers(name: str | None, tmp_path: Path, nasty_texts: list[str]) -> None:
    """The metadata of a tokenizer.json gives the ids of the library that reads it."""
    if name is None:
        pytest.skip("no published tokenizers are here: tools/real_tokenizers.py")
    tokenizer_json = TOKENIZERS / name / "tokenizer.json"
    metadata = PUBLISHED[name](tokenizer_json)
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "model.gguf", **metadata))
    library = _library(tokenizer_json)
    for text in [*nasty_texts, *_random_texts(2000)]:
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) in (text, unicodedata.normalize("NFC", text)), repr(text)


@pytest.mark.slow
@needs_smollm2
@needs_smollm2_gguf
def test_smollm2(nasty_texts: list[str]) -> None:
    """Digits one by one, and 21 bytes that have no token; the template and the end of a turn are in the file."""
    by_gguf, by_json = load_tokenizer(SMOLLM2_GGUF), load_tokenizer(SMOLLM2)
    for text in [*nasty_texts, *_random_texts(2000)]:
        assert by_gguf.encode(text) == by_json.encode(text), repr(text)
    assert by_gguf.chat_template == by_json.chat_template is not None
    assert by_gguf.special_tokens == by_json.special_tokens
    assert by_gguf.special_tokens["<|im_end|>"] in by_gguf.eos_ids
    messages = [{"role": "user", "content": "What is <|im_end|>?"}]
    templates = [ChatTemplate.of(tokenizer) for tokenizer in (by_gguf, by_json)]
    ids = [template.render(messages, add_generation_prompt=True) for template in templates]
    assert ids[0] == ids[1]
    for template in templates:
        template.close()


@pytest.mark.slow
@needs_gemma3_gguf
def test_gemma_3(nasty_texts: list[str]) -> None:
    """The file of llama.cpp gives the ids of the published tokenizer.json."""
    if not (TOKENIZERS / "gemma3").is_dir():
        pytest.skip("the published tokenizer is not here: tools/real_tokenizers.py")
    tokenizer, library = load_tokenizer(GEMMA3_GGUF), _library(TOKENIZERS / "gemma3" / "tokenizer.json")
    for text in [*nasty_texts, *_random_texts(2000)]:
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) == text, repr(text)
    assert (tokenizer.bos_id, tokenizer.add_bos, tokenizer.eos_ids) == (2, True, (1, 106))


def _library(tokenizer_json: Path) -> tokenizers.Tokenizer:
    """Special tokens in text stay text; so do those that are not flagged as special, but named as such."""
    file = json.loads(tokenizer_json.read_bytes())
    for token in file["added_tokens"]:
        token["special"] |= is_control_name(token["content"])
    library = tokenizers.Tokenizer.from_str(json.dumps(file))
    library.encode_special_tokens = True
    return library


def _random_texts(n: int) -> list[str]:
    """What the ways to cut text differ in, in any order."""
    parts = [
        *" \n\t\r!/_()<>", "  ", "a", "Bc", "ABC", "é", "e\u0301", "ſ", "'s", "'LL", "12", "3", "4567", "١", "½",
        "你好", "カ", "한글", "я", "Я", "...", "--", "👩‍👧", "\u00a0", "\u3000", "x=", "กำ", "ᾀ", "Ω", "µ", "ª", "ǅ",
        "\u0301", "“", "、", "<think>", "<td>", "</s>", "<|im_end|>",
    ]  # fmt: skip
    random = np.random.default_rng(0)
    return ["".join(random.choice(parts, size=random.integers(1, 25))) for _ in range(n)]
