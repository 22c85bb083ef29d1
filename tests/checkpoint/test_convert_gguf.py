"""A directory as a GGUF file: what it says is what was meant, to dllama and to the `gguf` package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dllama.checkpoint import Checkpoint, convert_to_gguf, is_convertible, open_checkpoint
from dllama.checkpoint.gguf.header import with_unused_tokens
from dllama.dtypes import ElementType
from dllama.errors import TokenizerError, UnsupportedModelError
from dllama.kernels import oracle
from dllama.tokenizer import load_tokenizer
from dllama.tokenizer.convert import PROBE
from dllama.tokenizer.to_gguf import tokenizer_to_gguf
from support.local_cluster import GOLDENS, WITH_ROWS_OF_NO_BLOCKS
from support.processes import DEMO_MODEL

F32, IQ4NL = ElementType.F32, ElementType.IQ4NL
WRITTEN = {
    "gpt-oss", "llama-dynamic", "llama-gqa", "llama-head-dim", "llama-linear", "llama-mha", "llama-mqa-tied",
    "llama-yarn", "llama3-scaled", "mistral-gqa", "mistral-window", "mistral-yarn", "mixtral", "qwen2-gqa-tied",
    "qwen3-moe", "qwen3-shards", "qwen3-wide-heads", "qwen3-yarn", "smollm3", "stablelm",
}  # fmt: skip
"""At least these."""
WHOLE_BLOCKS = [path.name for path in sorted(GOLDENS.iterdir()) if path.name not in WITH_ROWS_OF_NO_BLOCKS]


def converted(name: str, weight_type: ElementType, folder: Path) -> tuple[Checkpoint, Checkpoint] | None:
    """The directory and what is read of the file that it becomes; None where that is refused."""
    directory, path = open_checkpoint(GOLDENS / name, weight_type), folder / "model.gguf"
    if not is_convertible(directory, IQ4NL):
        assert name not in WRITTEN
        with pytest.raises(UnsupportedModelError, match="is not written into GGUF files"):
            convert_to_gguf(directory, path, "some", {})
        assert not list(folder.iterdir())
        return None
    convert_to_gguf(directory, path, "some", {})
    return directory, open_checkpoint(path)


def close(values: Any) -> Any:
    """Numbers that were float32 in between, to 5 digits."""
    if isinstance(values, dict):
        return {key: close(value) for key, value in values.items()}
    if isinstance(values, list):
        return [close(value) for value in values]
    return float(f"{values:.5g}") if isinstance(values, float) else values


@pytest.mark.parametrize("name", WHOLE_BLOCKS)
def test_the_config_comes_back(name: str, tmp_path: Path) -> None:
    """But for a window, which GGUF has no key for: the context is no longer than it."""
    both = converted(name, F32, tmp_path)
    if both is None:
        return
    meant, read = (close(checkpoint.config.to_json()) for checkpoint in both)
    window = meant["kinds"][0]["mixer"]["window"]
    if window is not None and len(meant["kinds"]) == 1:
        meant["max_seq_len"] = min(window, meant["max_seq_len"])
        meant["kinds"][0]["mixer"]["window"] = None
    assert read.pop("family") == meant.pop("family").replace("mistral", "llama")
    assert read == meant


@pytest.mark.parametrize("name", WHOLE_BLOCKS)
def test_tensors_are_those_of_the_directory(name: str, tmp_path: Path) -> None:
    both = converted(name, IQ4NL, tmp_path)
    if both is None:
        return
    directory, read = both
    for tensor in directory.tensors.values():
        if tensor.name == "embedding":
            continue
        whole = (0, tensor.stacked_rows), (0, tensor.n_cols)
        values = oracle.decode(tensor.dtype, directory.read(tensor.name, *whole), tensor.n_cols)
        recipe = read.recipe(tensor.name)
        stored = oracle.decode(
            recipe.dtype, recipe.take(range(recipe.n_rows), range(recipe.n_cols)), recipe.n_cols
        )
        np.testing.assert_array_equal(stored, values, err_msg=tensor.name)


def test_gemma_as_its_makers_have_it(tmp_path: Path) -> None:
    """Norms with the 1 added, four in a layer, two ropes, windows, a scaled embedding that is the head."""
    source = tmp_path / "gemma"
    shutil.copytree(GOLDENS / "gemma3-two-kinds", source)
    values = json.loads((source / "config.json").read_text())
    values["query_pre_attn_scalar"] = values["head_dim"]
    (source / "config.json").write_text(json.dumps(values))
    directory = open_checkpoint(source, F32)
    convert_to_gguf(directory, tmp_path / "model.gguf", "some", {})
    read = open_checkpoint(tmp_path / "model.gguf", F32)
    assert close(read.config.to_json()) == close(directory.config.to_json())
    for name, tensor in directory.tensors.items():
        whole = (0, tensor.stacked_rows), (0, tensor.n_cols)
        np.testing.assert_array_equal(read.read(name, *whole), directory.read(name, *whole), err_msg=name)


def test_the_gguf_package_reads_it(tmp_path: Path) -> None:
    directory = open_checkpoint(GOLDENS / "qwen2-gqa-tied", IQ4NL)
    report = convert_to_gguf(directory, tmp_path / "model.gguf", "some name", {}, n_threads=3)
    reader = gguf.GGUFReader(report.path)
    assert report.n_bytes == report.path.stat().st_size
    assert reader.fields["general.name"].contents() == "some name"
    types = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    assert types["token_embd.weight"] is gguf.GGMLQuantizationType.Q8_0
    assert "output.weight" not in types
    assert types["blk.0.attn_q.weight"] is gguf.GGMLQuantizationType.IQ4_NL
    assert types["blk.0.attn_norm.weight"] is gguf.GGMLQuantizationType.F32
    down = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_down.weight")
    tensor = directory.tensors["layers.1.down"]
    blocks = directory.read(tensor.name, (0, tensor.n_rows), (0, tensor.n_cols))
    np.testing.assert_array_equal(down.data.view(np.uint8).reshape(blocks.shape), blocks)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_the_file_does_not_depend_on_threads(n_threads: int, tmp_path: Path) -> None:
    directory = open_checkpoint(GOLDENS / "llama-gqa", IQ4NL)
    for n, path in ((1, tmp_path / "one"), (n_threads, tmp_path / "many")):
        convert_to_gguf(directory, path, "some", {}, n_threads=n)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_the_tokenizer_comes_back(tmp_path: Path) -> None:
    directory = open_checkpoint(DEMO_MODEL, IQ4NL)
    path, meant = tmp_path / "model.gguf", load_tokenizer(DEMO_MODEL)
    metadata = tokenizer_to_gguf(DEMO_MODEL)
    convert_to_gguf(directory, path, "demo", metadata)
    read = load_tokenizer(path)
    for text in (PROBE, "Once upon a time there was a small dog.", "", "  two  spaces\n\n\n1234567"):
        assert read.encode(text, add_bos=True) == meant.encode(text, add_bos=True)
        assert read.decode(read.encode(text)) == text
    assert (read.bos_id, read.add_bos, read.chat_template) == (
        meant.bos_id,
        meant.add_bos,
        meant.chat_template,
    )
    assert set(meant.eos_ids) <= {*read.eos_ids, *meant.eos_ids[1:]}


def test_rows_without_a_token_get_one() -> None:
    """llama.cpp wants as many tokens as there are rows."""
    tokenizer = {
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.token_type": np.array([1, 3], np.int32),
        "tokenizer.ggml.merges": ["a b"],
    }
    values = with_unused_tokens(tokenizer, 4)
    assert values["tokenizer.ggml.tokens"] == ["a", "b", "[PAD2]", "[PAD3]"]
    np.testing.assert_array_equal(values["tokenizer.ggml.token_type"], [1, 3, 5, 5])
    assert values["tokenizer.ggml.merges"] == ["a b"]
    assert with_unused_tokens(tokenizer, 2) == tokenizer
    with pytest.raises(TokenizerError, match="the tokenizer has 2 tokens and the model 1"):
        with_unused_tokens(tokenizer, 1)
