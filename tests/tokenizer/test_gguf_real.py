"""Real vocabularies in GGUF files: the ids that llama.cpp's own tests expect."""

from __future__ import annotations

from pathlib import Path

import pytest

from dllama.tokenizer import load_tokenizer

VOCABULARIES = sorted((Path(__file__).parents[3] / "shared" / "real" / "gguf-vocab").glob("*.gguf"))
BETWEEN = "\n__ggml_vocab_test__\n"

pytestmark = pytest.mark.skipif(
    not VOCABULARIES, reason="shared/real/gguf-vocab is not beside the repository"
)


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
