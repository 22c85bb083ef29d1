"""A GGUF file is the model that it was made of, in config and in every bit; what is no such file is named."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dllama.checkpoint import Checkpoint, open_checkpoint
from dllama.dtypes import ElementType, row_bytes
from dllama.errors import DllamaError, ModelFileError, NumericalError, UnsupportedModelError, UsageError
from dllama.families import family_named
from dllama.formats.gguf import GgmlType
from dllama.kernels import oracle
from support.gguf_model import families_in_gguf, package_name, write_model

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
GGUF_HAS_NO_KEY_FOR = {
    "glm4-moe-lite",
    "llama-gelu",
    "mistral-window",
    "qwen2-yarn",
    "gemma3-two-kinds",
    "qwen3-moe-mixed",
}
"""The activation, a window of llama's architecture, borders of YaRN that are no whole pairs, weights of experts that do
not sum to 1."""

NAMES = sorted(
    path.parent.name
    for path in GOLDENS.glob("*/config.json")
    if json.loads(path.read_text())["model_type"] in {family.name for family in families_in_gguf()}
    and path.parent.name not in GGUF_HAS_NO_KEY_FOR
)
LLAMA = family_named("llama")
F32, Q80 = ElementType.F32, ElementType.Q80


def whole(checkpoint: Checkpoint, name: str) -> np.ndarray:
    spec = checkpoint.tensors[name]
    return checkpoint.read(name, (0, spec.stacked_rows), (0, spec.n_cols))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_model_that_it_was_made_of(name: str, tmp_path: Path) -> None:
    original = open_checkpoint(GOLDENS / name, F32)
    model = open_checkpoint(write_model(GOLDENS / name, tmp_path / "model.gguf"))
    ours, theirs = model.config.to_json(), original.config.to_json()
    assert ours.pop("family") == theirs.pop("family").replace("mistral", "llama")
    np.testing.assert_equal(close(ours), close(theirs))
    assert list(model.tensors) == list(original.tensors)
    for tensor in model.tensors:
        read = whole(model, tensor), whole(original, tensor)
        if tensor.endswith("log_rate"):  # which the file has the exponentials of
            np.testing.assert_allclose(
                *(values.view(np.float32) for values in read), rtol=1e-6, err_msg=tensor
            )
        else:
            np.testing.assert_array_equal(*read, err_msg=tensor)
    ids = [3, 0, 3, model.config.vocab_size - 1]
    np.testing.assert_array_equal(model.embed(ids), original.embed(ids))
    assert model.is_stored("layers.1.o" if "layers.1.o" in model.tensors else "layers.3.o")


def close(values: Any) -> Any:
    """Numbers that were float32 in between, to 5 digits."""
    if isinstance(values, dict):
        return {key: close(value) for key, value in values.items()}
    return float(f"{values:.5g}") if isinstance(values, float) else values


READ = [
    GgmlType.F16, GgmlType.BF16, GgmlType.Q4_0, GgmlType.Q4_1, GgmlType.Q5_0, GgmlType.Q5_1, GgmlType.Q8_0,
]  # fmt: skip


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
def test_values_are_those_of_the_gguf_package(kind: GgmlType, tmp_path: Path) -> None:
    """Of a matrix that is used as the file has it they are exact, of another within half a step of q80 (one more
    where the search for a scale draws the largest number in)."""
    path = write_model(GOLDENS / "llama-gqa", tmp_path / "model.gguf", lambda name: kind)
    model = open_checkpoint(path)
    for tensor in gguf.GGUFReader(path).tensors:
        name = next(name for name in model.tensors if package_name(LLAMA, name) == tensor.name)
        spec = model.tensors[name]
        wanted = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(spec.n_rows, spec.n_cols)
        recipe = model.recipe(name)
        out = recipe.take(range(spec.n_rows), range(spec.n_cols))
        np.testing.assert_array_equal(oracle.decode(recipe.dtype, out, spec.n_cols), wanted)
        used = oracle.decode(spec.dtype, whole(model, name), spec.n_cols)
        largest = np.abs(wanted.reshape(spec.n_rows, -1, min(32, spec.n_cols))).max(-1).repeat(32, -1)
        assert np.all(np.abs(used - wanted) <= largest[:, : spec.n_cols] * 1.5 / 127)
    wanted = oracle.decode(F32, whole(model, "embedding"), model.config.dim)
    np.testing.assert_array_equal(model.embed([7, 1]), wanted[[7, 1]])


@pytest.mark.parametrize(
    "kind",
    [kind for kind in GgmlType if kind.name.startswith(("Q2_K", "Q3_K", "IQ", "TQ", "NVFP4", "MXFP4"))]
    + [GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K],
    ids=lambda kind: kind.name,
)
def test_any_type_is_read_by_rows_and_columns(kind: GgmlType, tmp_path: Path) -> None:
    """Random blocks, whose scales are numbers: parts equal the whole, and the whole is what the gguf package gives."""
    data = random_blocks(kind, n_rows=256, n_cols=512)
    path = one_matrix(tmp_path, kind, data)
    model = open_checkpoint(path)
    wanted = gguf.dequantize(data, gguf.GGMLQuantizationType(kind))
    recipe = model.recipe("layers.0.q")
    everything = oracle.decode(recipe.dtype, recipe.take(range(256), range(512)), 512)
    np.testing.assert_array_equal(everything, wanted)
    used = whole(model, "layers.0.q")
    dtype = model.tensors["layers.0.q"].dtype
    for rows, cols in (((0, 3), (256, 512)), ((100, 101), (0, 256)), ((255, 256), (0, 512))):
        part = model.read("layers.0.q", rows, cols)
        start, stop = row_bytes(dtype, cols[0]), row_bytes(dtype, cols[1])
        np.testing.assert_array_equal(part, used[rows[0] : rows[1], start:stop])


def random_blocks(kind: GgmlType, n_rows: int, n_cols: int) -> np.ndarray:
    """Rows of random blocks with finite values."""
    random = np.random.default_rng(kind)
    rows = random.integers(0, 256, (n_rows, n_cols // kind.block * kind.block_bytes), np.uint8)
    blocks = rows.reshape(-1, kind.block_bytes)
    with np.errstate(all="ignore"):
        values = gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind))
    sound = blocks[(np.isfinite(values) & (np.abs(values) < 1e3)).all(-1)]
    assert len(sound)
    return sound[random.integers(0, len(sound), len(blocks))].reshape(rows.shape)


def one_matrix(tmp_path: Path, kind: GgmlType, data: np.ndarray) -> Path:
    """A model of one layer, dim 512 and 256 rows of q, whose q has these bytes."""
    n_ff, n_vocab = 512, 40
    zeros = {
        "token_embd.weight": (n_vocab, 512), "output_norm.weight": (512,), "blk.0.attn_norm.weight": (512,),
        "blk.0.ffn_norm.weight": (512,), "blk.0.attn_k.weight": (64, 512), "blk.0.attn_v.weight": (64, 512),
        "blk.0.attn_output.weight": (512, 256), "blk.0.ffn_gate.weight": (n_ff, 512),
        "blk.0.ffn_up.weight": (n_ff, 512), "blk.0.ffn_down.weight": (512, n_ff),
    }  # fmt: skip
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for key, value in {
        "context_length": 64, "embedding_length": 512, "block_count": 1, "feed_forward_length": n_ff,
        "attention.head_count": 4, "attention.head_count_kv": 1, "attention.key_length": 64,
        "attention.value_length": 64,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for name, shape in zeros.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.add_tensor("blk.0.attn_q.weight", data, raw_dtype=gguf.GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "model.gguf"


def test_what_has_no_kernel_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = one_matrix(tmp_path, GgmlType.Q2_K, random_blocks(GgmlType.Q2_K, 256, 512))
    with caplog.at_level(logging.WARNING):
        open_checkpoint(path)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{path}: 1 of 8 matrices are Q2_K")
    assert "Q2_K" in said
    assert "q80" in said


def test_a_type_may_be_asked_for(tmp_path: Path) -> None:
    path = write_model(GOLDENS / "llama-gqa", tmp_path / "model.gguf", lambda name: GgmlType.Q4_0)
    model = open_checkpoint(path, ElementType.F16)
    assert model.tensors["layers.0.q"].dtype is ElementType.F16


def test_infinity_in_a_scale_is_named(tmp_path: Path) -> None:
    data = random_blocks(GgmlType.Q2_K, 256, 512)
    data[3, 80:82] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    model = open_checkpoint(one_matrix(tmp_path, GgmlType.Q2_K, data))
    with pytest.raises(NumericalError, match=r"model\.gguf: blk\.0\.attn_q\.weight: has NaN, infinity"):
        model.read("layers.0.q", (0, 8), (0, 512))
    assert len(model.read("layers.0.q", (4, 8), (0, 512))) == 4


def refusal(kind: type[DllamaError], act: Callable[[], object], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


METADATA: list[tuple[type[DllamaError], Mapping[str, Any], tuple[str, ...]]] = [
    (UnsupportedModelError, {"general.architecture": "mamba"}, ("'mamba' is not known; known are llama, ",)),
    (UnsupportedModelError, {"general.architecture": "clip"}, ("mmproj", "give the file of its language model")),
    (UnsupportedModelError, {"general.type": "adapter"}, ("is an adapter (LoRA), not a model; merge it",)),
    (ModelFileError, {"llama.block_count": None}, ("no llama.block_count",)),
    (ModelFileError, {"llama.block_count": "many"}, ("llama.block_count is 'many', not a whole number",)),
    (ModelFileError, {"llama.block_count": 3}, ("lacks the tensor blk.2.attn_q.weight",)),
    (UnsupportedModelError, {"llama.block_count": 1}, ("blk.1.", "has no place in a llama model of 1 layers")),
    (ModelFileError, {"llama.block_count": 1 << 30}, ("n_layers is 1073741824",)),
    (ModelFileError, {"llama.embedding_length": 64}, ("token_embd.weight has the shape [256, 128]", "[256, 64]")),
    (ModelFileError, {"llama.attention.head_count": 0}, ("n_heads is 0",)),
    (ModelFileError, {"llama.attention.head_count_kv": 4}, ("attn_k.weight has the shape",)),
    (UnsupportedModelError, {"llama.feed_forward_length": [288, 100]}, ("llama.feed_forward_length differs",)),
    (ModelFileError, {"llama.expert_count": 8}, ("no llama.expert_used_count",)),
    (UnsupportedModelError, {"llama.expert_shared_count": 8}, ("llama.expert_shared_count is 8, which is not",)),
    (UnsupportedModelError, {"llama.attention.value_length": 8}, ("llama.attention.value_length differs",)),
    (UnsupportedModelError, {"llama.rope.scaling.type": "longrope"}, ("'longrope'", "none, linear and yarn")),
    (UnsupportedModelError, {"llama.rope.dimension_count": 8}, ("part of the head",)),
    (UnsupportedModelError, {"llama.final_logit_softcapping": 30.0}, ("llama.final_logit_softcapping is 30.0",)),
    (ModelFileError, {"llama.attention.layer_norm_rms_epsilon": float("nan")}, ("rms_norm_eps",)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "parts"), METADATA, ids=[str(case[1]) for case in METADATA])
def test_metadata_that_cannot_be_is_named(
    kind: type[DllamaError], changes: Mapping[str, Any], parts: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_model(GOLDENS / "llama-gqa", tmp_path / "model.gguf", changes=changes)
    refusal(kind, lambda: open_checkpoint(path), str(path), *parts)


def test_a_list_that_says_the_same_for_every_layer_is_one_number(tmp_path: Path) -> None:
    path = write_model(
        GOLDENS / "llama-gqa", tmp_path / "m.gguf", changes={"llama.attention.head_count_kv": [2, 2]}
    )
    assert "layers.1.k" in open_checkpoint(path).tensors


@pytest.mark.parametrize(
    ("tensors", "kind", "parts"),
    [
        ({"blk.1.attn_k.weight": None}, ModelFileError, ("lacks the tensor blk.1.attn_k.weight",)),
        ({"token_embd.weight": None}, ModelFileError, ("has no tensor token_embd.weight",)),
        ({"blk.0.attn_q.bias": np.ones(128, np.float32)}, UnsupportedModelError, ("blk.0.attn_q.bias has no place",)),
        ({"v.patch.weight": np.ones((4, 4), np.float32)}, UnsupportedModelError, ("v.patch.weight has no place",)),
        ({"output_norm.weight": np.ones(64, np.float32)}, ModelFileError, ("has the shape [64]", "[128]")),
        ({"blk.0.attn_v.weight": np.ones((32, 128), np.int8)}, UnsupportedModelError, ("stored as I8",)),
        ({"rope_freqs.weight": np.ones(3, np.float32)}, ModelFileError, ("has 3 factors for 8 pairs",)),
        ({"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}, UnsupportedModelError, ("Llama 3.1",)),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be_are_named(
    tensors: Mapping[str, Any], kind: type[DllamaError], parts: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_model(GOLDENS / "llama-gqa", tmp_path / "model.gguf", tensors=tensors)
    refusal(kind, lambda: open_checkpoint(path), str(path), *parts)


def test_a_bias_of_zeros_adds_nothing(tmp_path: Path) -> None:
    zeros = {"blk.0.attn_q.bias": np.zeros(128, np.float32)}
    open_checkpoint(write_model(GOLDENS / "llama-gqa", tmp_path / "model.gguf", tensors=zeros))


def test_the_usual_numbers_of_llama_3_are_found_exactly(tmp_path: Path) -> None:
    """The float32 factors of a head of 128, as the converter computes them."""
    frequency = 500000.0 ** -(np.arange(64) / 64)
    smooth = np.clip((8192 * frequency / (2 * np.pi) - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    shapes = {"blk.{}.attn_q.weight": (512, 128), "blk.{}.attn_k.weight": (256, 128),
              "blk.{}.attn_v.weight": (256, 128), "blk.{}.attn_output.weight": (128, 512)}  # fmt: skip
    tensors = {
        name.format(i): np.zeros(shape, np.float32) for name, shape in shapes.items() for i in range(2)
    }
    heads = {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 128,
             "attention.value_length": 128, "rope.dimension_count": 128, "rope.freq_base": 500000.0}  # fmt: skip
    changes = {f"llama.{key}": value for key, value in heads.items()}
    path = write_model(
        GOLDENS / "llama-gqa",
        tmp_path / "m.gguf",
        changes=changes,
        tensors=tensors | {"rope_freqs.weight": factors},
    )
    shown = str(open_checkpoint(path).config.to_json())
    assert (
        "'factor': 32.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0, 'original_max_seq_len': 8192"
        in shown
    )


def test_a_folder_may_hold_one_model(tmp_path: Path) -> None:
    write_model(GOLDENS / "llama-gqa", tmp_path / "a.gguf")
    (tmp_path / "mmproj-a-f16.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path).config.dim == 128
    write_model(GOLDENS / "llama-gqa", tmp_path / "b.gguf")
    refusal(UsageError, lambda: open_checkpoint(tmp_path), "several models; give one of a.gguf, b.gguf")


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = write_model(GOLDENS / "llama-gqa", tmp_path / "model.gguf")
    path.rename(tmp_path / "blob")
    assert open_checkpoint(tmp_path / "blob").config.dim == 128


def test_what_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"something else altogether")
    refusal(ModelFileError, lambda: open_checkpoint(path), str(path), "is no GGUF file")
    refusal(ModelFileError, lambda: open_checkpoint(tmp_path / "none.gguf"), "there is no such file")
