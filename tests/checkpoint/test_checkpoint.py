"""Reading any rows and columns gives what reading everything gives, whatever the file and the type."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.checkpoint import Checkpoint, convert_model, describe, open_checkpoint
from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.errors import ModelFileError, NumericalError, TokenizerError, UnsupportedModelError, UsageError
from dllama.sharding import plan_spans

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
WEIGHT_TYPES = [ElementType.F32, ElementType.F16, ElementType.Q40, ElementType.Q80]
Copy = Callable[[str], Any]


def whole(checkpoint: Checkpoint, name: str) -> NDArray[np.uint8]:
    spec = checkpoint.tensors[name]
    return checkpoint.read(name, (0, spec.n_rows), (0, spec.n_cols))


def bf16_to_f32(data: bytes) -> NDArray[np.float32]:
    return (np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)


def test_q_rows_are_regrouped_from_halves_to_adjacent_pairs(copy_of: Copy) -> None:
    directory = copy_of("llama-gqa")
    _, shape, data = directory.tensors()["model.layers.1.self_attn.k_proj.weight"]
    stored = bf16_to_f32(data).reshape(shape)  # [2 heads x 16, 128]
    by_heads = stored.reshape(2, 2, 8, 128).swapaxes(1, 2).reshape(32, 128)
    checkpoint = open_checkpoint(directory.path, ElementType.F32)
    read = whole(checkpoint, "layers.1.k").view(np.float32)
    np.testing.assert_array_equal(read, by_heads)


def test_qwen_rows_stay_in_halves(copy_of: Copy) -> None:
    directory = copy_of("qwen2-gqa-tied")
    _, shape, data = directory.tensors()["model.layers.0.self_attn.q_proj.weight"]
    checkpoint = open_checkpoint(directory.path, ElementType.F32)
    read = whole(checkpoint, "layers.0.q").view(np.float32)
    np.testing.assert_array_equal(read, bf16_to_f32(data).reshape(shape))


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize("golden", ["llama-gqa", "qwen3-shards"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_part_is_the_part_of_the_whole(golden: str, weight_type: ElementType, data: st.DataObject) -> None:
    checkpoint = open_checkpoint(GOLDENS / golden, weight_type)
    name = data.draw(st.sampled_from(sorted(checkpoint.tensors)))
    spec = checkpoint.tensors[name]
    first, last = sorted(data.draw(st.lists(st.integers(0, spec.n_rows), min_size=2, max_size=2)))
    step = BLOCK if spec.dtype.is_blocked else 1
    left, right = sorted(data.draw(st.lists(st.integers(0, spec.n_cols // step), min_size=2, max_size=2)))
    cols = (left * step, right * step)
    wanted = whole(checkpoint, name)[
        first:last, row_bytes(spec.dtype, cols[0]) : row_bytes(spec.dtype, cols[1])
    ]
    np.testing.assert_array_equal(checkpoint.read(name, (first, last), cols), wanted)
    out = np.full(wanted.shape, 0xEE, dtype=np.uint8)
    assert checkpoint.read(name, (first, last), cols, out) is out
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize("golden", ["llama-mqa-tied", "qwen2-gqa-tied", "qwen3-wide-heads"])
def test_a_converted_model_reads_as_its_directory(
    golden: str, weight_type: ElementType, tmp_path: Path
) -> None:
    directory = open_checkpoint(GOLDENS / golden, weight_type)
    convert_model(directory, tmp_path / "model.m")
    converted = open_checkpoint(tmp_path / "model.m", weight_type)
    assert converted.config == directory.config
    assert converted.tensors == directory.tensors
    for name in directory.tensors:
        np.testing.assert_array_equal(whole(converted, name), whole(directory, name), err_msg=name)
    ids = [0, 5, 255, 5]
    np.testing.assert_array_equal(converted.embed(ids), directory.embed(ids))


def test_quantising_is_within_its_step() -> None:
    """Q40 keeps 16 levels: half a step, and more at the ends, which the search may draw in by a quarter."""
    exact = open_checkpoint(GOLDENS / "llama-gqa", ElementType.F32)
    wanted = whole(exact, "layers.0.down").view(np.float32).reshape(-1, BLOCK)
    blocks = whole(open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40), "layers.0.down").reshape(-1, 18)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32)
    step = np.abs(scales)
    lost = np.abs((nibbles - 8) * scales - wanted)
    is_inside = (nibbles > 0) & (nibbles < 15)
    assert (lost <= step * np.where(is_inside, 0.501, 8 / 0.72 - 8 + 0.5)).all()


def test_a_tied_head_is_the_embedding() -> None:
    checkpoint = open_checkpoint(GOLDENS / "llama-mqa-tied", ElementType.F32)
    np.testing.assert_array_equal(whole(checkpoint, "head"), whole(checkpoint, "embedding"))


def test_embed_takes_rows_of_the_embedding() -> None:
    checkpoint = open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40)
    table = whole(checkpoint, "embedding").view(np.float32)
    ids = np.array([3, 0, 255, 3], dtype=np.int32)
    rows = checkpoint.embed(ids)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, table[ids])
    assert checkpoint.embed([]).shape == (0, 128)


@pytest.mark.parametrize("token_id", [-1, 256, 1 << 40])
def test_embed_refuses_ids_outside_the_vocabulary(token_id: int) -> None:
    checkpoint = open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40)
    with pytest.raises(TokenizerError, match=f"token id {token_id} is outside"):
        checkpoint.embed([1, token_id])


def test_pages_that_were_let_go_are_read_again(tmp_path: Path) -> None:
    convert_model(open_checkpoint(GOLDENS / "llama-gqa", ElementType.F32), tmp_path / "model.m")
    checkpoint = open_checkpoint(tmp_path / "model.m")
    view = whole(checkpoint, "layers.0.q")
    before = view.copy()
    checkpoint.let_go()
    np.testing.assert_array_equal(view, before)
    checkpoint.close()
    np.testing.assert_array_equal(view, before)
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1


def test_the_default_of_a_directory_is_iq4nl_and_of_a_file_its_own(tmp_path: Path) -> None:
    types = open_checkpoint(GOLDENS / "llama-gqa").model.types
    assert types.all == [ElementType.IQ4NL, ElementType.Q80]
    assert types.outer == {"head": ElementType.Q80}
    convert_model(open_checkpoint(GOLDENS / "llama-gqa", ElementType.F32), tmp_path / "model.m")
    assert open_checkpoint(tmp_path / "model.m").model.types.uniform is ElementType.F32
    with pytest.raises(UsageError, match="its weights are f32, not q40"):
        open_checkpoint(tmp_path / "model.m", ElementType.Q40)


@pytest.mark.parametrize("weight_type", [None, ElementType.Q40, ElementType.Q80])
def test_rows_that_are_no_whole_blocks(weight_type: ElementType | None) -> None:
    with pytest.raises(
        UsageError, match=r"layers\.0\.q has rows of 84 elements.*use the weight type f16 or f32"
    ):
        open_checkpoint(GOLDENS / "llama-odd", weight_type)
    assert open_checkpoint(GOLDENS / "llama-odd", ElementType.F16).config.dim == 84


def test_describe_counts_everything(tmp_path: Path) -> None:
    convert_model(open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40), tmp_path / "model.m")
    for path in (GOLDENS / "llama-gqa", tmp_path / "model.m"):
        checkpoint = open_checkpoint(path)
        description = describe(checkpoint)
        assert [tensor.name for tensor in description.tensors] == [tensor.name for tensor in checkpoint.model]
        assert description.n_weights == sum(tensor.n_rows * tensor.n_cols for tensor in description.tensors)
        assert not description.tied_head
    assert description.header is not None
    assert description.header["2 dim"] == "128"
    header_bytes = 8 + 8 * len(description.header)
    embedding_bytes = checkpoint.tensors["embedding"].n_bytes
    assert header_bytes + embedding_bytes + description.n_bytes == (tmp_path / "model.m").stat().st_size
    assert describe(open_checkpoint(GOLDENS / "llama-gqa")).header is None


def test_describe_says_what_memory_holds() -> None:
    """A head that is the embedding is held, and counted once; rows of the embedding are read from the file."""
    checkpoint = open_checkpoint(GOLDENS / "llama-mqa-tied")
    description = describe(checkpoint)
    (spans,) = plan_spans(checkpoint.model.axes, (1.0,)).ranks
    assert description.tied_head
    assert description.n_bytes == checkpoint.model.shard_bytes(spans)
    assert description.n_weights == sum(tensor.n_elements for tensor in checkpoint.model.held())


class TestDamage:
    """Every fault of a directory or a file is one line that names the thing."""

    @staticmethod
    def refusal(path: Path, kind: type[Exception] = ModelFileError) -> str:
        with pytest.raises(kind) as caught:
            open_checkpoint(path, ElementType.F32)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert "there is no such file" in self.refusal(tmp_path / "nothing")
        assert "config.json: there is no such file" in self.refusal(tmp_path)
        assert "File name too long" in self.refusal(tmp_path / ("x" * 300))

    def test_a_safetensors_file_is_not_a_model(self) -> None:
        for name in ("model.safetensors", "config.json"):
            assert "give the directory" in self.refusal(GOLDENS / "llama-gqa" / name, UsageError)

    def test_missing_tensor(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        tensors = directory.tensors()
        del tensors["model.layers.1.mlp.up_proj.weight"]
        directory.store(tensors)
        assert "model.layers.1.mlp.up_proj.weight is in none" in self.refusal(directory.path)

    def test_missing_head_that_is_not_tied(self, copy_of: Copy) -> None:
        directory = copy_of("llama-mqa-tied")
        directory.change_config(tie_word_embeddings=False)
        assert "lm_head.weight is in none" in self.refusal(directory.path)

    def test_wrong_shape(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        directory.change_config(intermediate_size=256)
        message = self.refusal(directory.path)
        assert "gate_proj.weight has the shape [288, 128], config.json asks for [256, 128]" in message

    def test_transposed(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        tensors = directory.tensors()
        name = "model.layers.0.mlp.down_proj.weight"
        dtype, shape, data = tensors[name]
        directory.store(tensors | {name: (dtype, shape[::-1], data)})
        assert f"{name} has the shape [288, 128]" in self.refusal(directory.path)

    def test_wrong_dtype(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        tensors = directory.tensors()
        name = "model.layers.0.mlp.down_proj.weight"
        _, shape, data = tensors[name]
        directory.store(tensors | {name: ("F8_E5M2", shape, data[: math.prod(shape)])})
        assert f"{name} is stored as F8_E5M2" in self.refusal(directory.path, Exception)

    def test_a_scheme_that_is_not_read_without_a_word_in_the_config(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        tensors = directory.tensors()
        name = "model.layers.0.self_attn.q_proj"
        del tensors[f"{name}.weight"]
        directory.store(tensors | {f"{name}.q_weight": ("I32", [4], bytes(16))})
        message = self.refusal(directory.path, UnsupportedModelError)
        assert "quantised already, by EXL2" in message
        directory.store(
            tensors | {f"{name}.weight": ("U8", [64], bytes(64)), f"{name}.scales": ("F16", [1], b"ab")}
        )
        assert "by MLX" in self.refusal(directory.path, UnsupportedModelError)

    def test_a_tensor_that_has_no_place(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        extra = {"model.layers.0.self_attn.q_proj.bias": ("BF16", [128], bytes(254) + b"\x80\x3f")}
        directory.store(directory.tensors() | extra)
        assert "q_proj.bias has no place in a llama model" in self.refusal(directory.path, Exception)

    def test_fewer_layers_than_the_files_hold(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        directory.change_config(num_hidden_layers=1)
        assert "model.layers.1." in self.refusal(directory.path, Exception)

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("model.layers.0.self_attn.rotary_emb.inv_freq", b"\1" * 32),
            ("model.layers.0.self_attn.rotary_emb.cos_cached", b"\1" * 32),
            ("model.rotary_emb.sin_cached", b"\1" * 32),
            ("model.layers.1.self_attn.k_scale", b"\1" * 32),
            ("model.layers.1.mlp._extra_state", b"\1" * 32),
            ("model.layers.1.mlp.up_proj.bias", bytes(32)),
            ("model.layers.1.self_attn.o_proj.bias", b"\0\0\0\x80" * 8),
            ("lm_head.bias", bytes(32)),
            ("v_head.summary.weight", b"\1" * 32),
            ("score.weight", b"\1" * 32),
        ],
    )
    def test_tensors_that_change_no_logits_do_no_harm(self, copy_of: Copy, name: str, data: bytes) -> None:
        directory = copy_of("llama-gqa")
        directory.change_config(attention_bias=True, mlp_bias=True)
        directory.store(directory.tensors() | {name: ("F32", [8], data)})
        assert open_checkpoint(directory.path, ElementType.F32).config.n_layers == 2

    def test_a_tensor_left_aside_is_said(self, copy_of: Copy, caplog: pytest.LogCaptureFixture) -> None:
        directory = copy_of("llama-gqa")
        directory.store(directory.tensors() | {"v_head.summary.bias": ("F32", [1], b"abcd")})
        open_checkpoint(directory.path, ElementType.F32)
        assert "v_head.summary.bias: no part of the text model, not used" in caplog.text

    def test_the_stored_head_counts_where_another_word_is_in_the_config(
        self, copy_of: Copy, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As in transformers 5; the embedding was taken, without a word."""
        directory = copy_of("llama-gqa")
        head = whole(open_checkpoint(directory.path, ElementType.F32), "head")
        directory.change_config(tie_word_embeddings=True)
        checkpoint = open_checkpoint(directory.path, ElementType.F32)
        assert np.array_equal(whole(checkpoint, "head"), head)
        assert "the head is the one that is stored" in caplog.text
        caplog.clear()
        tensors = directory.tensors()
        directory.store(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
        checkpoint = open_checkpoint(directory.path, ElementType.F32)
        assert np.array_equal(whole(checkpoint, "head"), whole(checkpoint, "embedding"))
        assert caplog.text == ""

    def test_missing_shard(self, copy_of: Copy) -> None:
        directory = copy_of("qwen3-shards")
        (directory.path / "model-00002-of-00003.safetensors").unlink()
        assert "model-00002-of-00003.safetensors: is missing" in self.refusal(directory.path)

    @pytest.mark.parametrize("change", [-1, -1000, 1, 4096])
    def test_truncated_or_overlong_m_file(self, tmp_path: Path, change: int) -> None:
        path = tmp_path / "model.m"
        report = convert_model(open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40), path)
        data = path.read_bytes()
        assert len(data) == report.n_bytes
        path.write_bytes(data[:change] if change < 0 else data + bytes(change))
        with pytest.raises(ModelFileError) as caught:
            open_checkpoint(path)
        assert f"has {len(data) + change} bytes, its header asks for {len(data)}" in str(caught.value)
        assert ("truncated" if change < 0 else "too long") in str(caught.value)

    @pytest.mark.parametrize("weight_type", [ElementType.F32, ElementType.F16, ElementType.Q40])
    @pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
    def test_nan_and_infinity_are_found(self, copy_of: Copy, bits: int, weight_type: ElementType) -> None:
        directory = copy_of("llama-gqa")
        directory.change_bf16("model.layers.1.self_attn.v_proj.weight", 1000, bits)
        checkpoint = open_checkpoint(directory.path, weight_type)
        with pytest.raises(NumericalError, match=r"layers\.1\.self_attn\.v_proj\.weight: has NaN, infinity"):
            whole(checkpoint, "layers.1.v")

    def test_nan_in_a_vector_and_in_the_embedding(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        directory.change_bf16("model.norm.weight", 3, 0x7FC0)
        directory.change_bf16("model.embed_tokens.weight", 128 * 7 + 3, 0x7FC0)
        checkpoint = open_checkpoint(directory.path)
        with pytest.raises(NumericalError, match=r"model\.norm\.weight"):
            whole(checkpoint, "final_norm")
        checkpoint.embed([6, 8])
        with pytest.raises(NumericalError, match=r"embed_tokens"):
            checkpoint.embed([6, 7, 8])

    def test_a_number_too_large_for_f16(self, copy_of: Copy) -> None:
        directory = copy_of("llama-gqa")
        directory.change_bf16("model.layers.1.self_attn.v_proj.weight", 1000, 0x4780)  # 65536
        assert open_checkpoint(directory.path, ElementType.F32).config.n_layers == 2
        with pytest.raises(NumericalError, match="too large for f16"):
            whole(open_checkpoint(directory.path, ElementType.F16), "layers.1.v")
