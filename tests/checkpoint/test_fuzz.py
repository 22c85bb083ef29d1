"""Whatever is overwritten in a header: the model opens, or one line says why not."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dllama.checkpoint import convert_model, open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import DllamaError
from dllama.formats.gguf import GgufFile, NewTensor, NewValue, write_gguf
from support.gguf_model import write_model

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
MANY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
INTERESTING = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1)


def opens_or_says_why(path: Path) -> None:
    try:
        open_checkpoint(path, None if path.is_file() else ElementType.F32)
    except DllamaError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(path) in str(error)  # noqa: PT017


@functools.cache
def m_file(directory: Path, golden: str) -> bytes:
    convert_model(open_checkpoint(GOLDENS / golden, ElementType.Q40), directory / "sound.m")
    return (directory / "sound.m").read_bytes()


@pytest.mark.parametrize("golden", ["llama3-scaled", "qwen3-moe"])
@MANY
@given(index=st.integers(0, 39), value=INTERESTING)
def test_any_word_of_an_m_header(tmp_path: Path, golden: str, index: int, value: int) -> None:
    data = bytearray(m_file(tmp_path, golden))
    struct.pack_into("<i", data, 4 * index, value)
    path = tmp_path / "spoilt.m"
    path.write_bytes(data)
    opens_or_says_why(path)


@MANY
@given(at=st.integers(0, 1200), junk=st.binary(min_size=1, max_size=12))
def test_any_bytes_of_a_safetensors_header(tmp_path: Path, at: int, junk: bytes) -> None:
    directory = tmp_path / "model"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_bytes((GOLDENS / "llama-mha" / "config.json").read_bytes())
    data = bytearray((GOLDENS / "llama-mha" / "model.safetensors").read_bytes())
    data[at : at + len(junk)] = junk
    (directory / "model.safetensors").write_bytes(data)
    opens_or_says_why(directory)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("golden", ["llama3-scaled", "mistral-window", "qwen2-odd", "qwen3-moe-mixed"])
@MANY
@given(data=st.data(), value=JSON_VALUES)
def test_any_value_in_config_json(tmp_path: Path, golden: str, data: st.DataObject, value: Any) -> None:
    directory = tmp_path / "model"
    if not directory.exists():
        directory.mkdir()
        (directory / "model.safetensors").symlink_to(GOLDENS / golden / "model.safetensors")
    config = json.loads((GOLDENS / golden / "config.json").read_text())
    table = data.draw(st.sampled_from([config, config["rope_parameters"]]))
    table[data.draw(st.sampled_from(sorted(table)))] = value
    (directory / "config.json").write_text(json.dumps(config))
    opens_or_says_why(directory)


GGUF_VALUES = st.one_of(
    st.booleans(),
    st.sampled_from([0, 1, -1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]),
    st.integers(-(1 << 31), 1 << 32),
    st.floats(width=32),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.lists(st.binary(max_size=3), max_size=3),
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4).map(
        lambda values: np.array(values, np.int32)
    ),
    st.lists(st.floats(width=32), max_size=4).map(lambda values: np.array(values, np.float32)),
)
GGUF_KEYS = [
    "expert_count", "attention.scale", "attention.sliding_window", "rope.dimension_count", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.original_context_length", "attention.key_length",
]  # fmt: skip


@pytest.mark.parametrize("golden", ["llama3-scaled", "llama-gqa", "qwen2-odd", "qwen3-moe"])
@MANY
@given(data=st.data(), value=GGUF_VALUES)
def test_any_value_in_the_metadata_of_a_gguf_file(
    tmp_path: Path, golden: str, data: st.DataObject, value: NewValue
) -> None:
    """Instead of one that a sound file has, or as one that it does not have."""
    sound = tmp_path / "sound.gguf"
    if not sound.exists():
        write_model(GOLDENS / golden, sound)
    file = GgufFile(sound)
    architecture = file.metadata.need("general.architecture", str)
    keys = sorted({*file.metadata, *(f"{architecture}.{key}" for key in GGUF_KEYS)})
    metadata: dict[str, NewValue] = {**file.metadata, data.draw(st.sampled_from(keys)): value}
    path = tmp_path / "spoilt.gguf"
    tensors = [NewTensor(tensor.name, tensor.shape, tensor.type) for tensor in file.tensors.values()]
    with write_gguf(path, metadata, tensors) as writer:
        for tensor in tensors:
            writer.write(tensor.name, file.bytes_of(tensor.name))
    opens_or_says_why(path)
