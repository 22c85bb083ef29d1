"""A tokenizer that was written as GGUF gives the ids of the one that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllama.errors import TokenizerError
from dllama.formats.gguf import write_gguf
from dllama.tokenizer import Tokenizer, load_tokenizer
from dllama.tokenizer.to_gguf import tokenizer_to_gguf

PUBLISHED = sorted((Path(__file__).parents[2] / ".real-models" / "tokenizers").glob("*"))


def written(source: Path, path: Path) -> Tokenizer:
    with write_gguf(path, {"general.architecture": "llama", **tokenizer_to_gguf(source)}, []):
        pass
    return load_tokenizer(path)


@pytest.mark.parametrize("name", ["qwen_directory", "sentencepiece_json_directory", "sentencepiece_model"])
def test_ids_and_settings_stay(
    name: str, tmp_path: Path, nasty_texts: list[str], request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(name)
    original, found = load_tokenizer(source), written(source, tmp_path / "model.gguf")
    for text in nasty_texts:
        for parse_special in (False, True):
            ids = original.encode(text, add_bos=True, parse_special=parse_special)
            assert found.encode(text, add_bos=True, parse_special=parse_special) == ids, repr(text)
        assert found.decode(ids) == original.decode(ids)
    assert found.vocab_size == original.vocab_size
    assert found.add_bos == original.add_bos
    assert original.bos_id in (None, found.bos_id)
    assert found.eos_ids[: len(original.eos_ids)] == original.eos_ids
    assert found.chat_template == original.chat_template
    assert found.special_tokens == original.special_tokens
    again = written(tmp_path / "model.gguf", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()
    assert again.eos_ids == found.eos_ids


def test_a_cut_without_a_name_is_refused(tmp_path: Path, qwen_directory: Path) -> None:
    file = json.loads((qwen_directory / "tokenizer.json").read_bytes())
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "[aeiou]+"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json: it cuts text in a way that GGUF has no name for"
    ):
        tokenizer_to_gguf(tmp_path)


def test_what_says_too_little_is_refused(tiktoken_directory: Path) -> None:
    with pytest.raises(TokenizerError, match="tiktoken ranks say too little"):
        tokenizer_to_gguf(tiktoken_directory)


def test_what_gguf_cannot_say_is_said(metaspace_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A space before a first word that has one already is one too many."""
    tokenizer_to_gguf(metaspace_directory)
    assert "some texts get other ids from it, as '   \\n\\n\\t' does" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("source", PUBLISHED or [None], ids=lambda source: source and source.name)
def test_published_tokenizers(source: Path | None, tmp_path: Path, nasty_texts: list[str]) -> None:
    if source is None:
        pytest.skip("no published tokenizers are here: tools/real_tokenizers.py")
    original, found = load_tokenizer(source), written(source, tmp_path / "model.gguf")
    for text in nasty_texts:
        assert found.encode(text) == original.encode(text), repr(text)
