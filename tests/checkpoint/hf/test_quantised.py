"""Directories that others have quantised: what is read is what they mean, whole and in parts, and so are the logits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dllama.checkpoint import Checkpoint, open_checkpoint
from dllama.dtypes import ElementType, row_bytes
from dllama.errors import ModelFileError, NumericalError, UnsupportedModelError
from dllama.kernels import Reference
from dllama.kernels.blocks import decode
from support import quantised as make
from support.local_cluster import LocalCluster
from support.quantised import quantised_copy
from support.sequences import CachedSequence, Run, Steps, Want

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
LLAMA = GOLDENS / "llama-gqa"  # 128 wide, 288 within: 96 for each of three nodes
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*router"],
}


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    writer: make.Writer
    said: dict[str, Any] | None
    dtype: ElementType
    """What its matrices are in memory."""
    is_exact: bool = True

    @property
    def config(self) -> dict[str, Any]:
        return {"quantization_config": self.said} if self.said else {}


Q40, Q41, Q50, Q51, Q80 = (
    ElementType.Q40, ElementType.Q41, ElementType.Q50, ElementType.Q51, ElementType.Q80,
)  # fmt: skip
CASES = [
    Case("gptq", make.gptq(symmetric=True), GPTQ, Q40),
    Case("gptq-asymmetric", make.gptq(), GPTQ, Q50),
    Case("gptq-v2", make.gptq(v2=True), GPTQ | {"checkpoint_format": "gptq_v2"}, Q50),
    Case("gptq-without-config", make.gptq(symmetric=True), None, Q40),
    Case("gptq-act-order", make.gptq(symmetric=True, act_order=True), GPTQ | {"desc_act": True}, Q80, False),
    Case("gptq-2", make.gptq(2), GPTQ | {"bits": 2}, Q40),
    Case("gptq-3", make.gptq(3), GPTQ | {"bits": 3}, Q40),
    Case("gptq-8", make.gptq(8, symmetric=True), GPTQ | {"bits": 8}, Q80),
    Case("gptq-8-asymmetric", make.gptq(8), GPTQ | {"bits": 8}, Q80, False),
    Case("awq", make.awq(), {"quant_method": "awq", "version": "gemm", "bits": 4}, Q50),
    Case("awq-16", make.awq(16), {"quant_method": "awq"}, Q80, False),
    Case("fp8", make.fp8(), FP8, Q80, False),
    Case("fp8-blocks-of-64", make.fp8(block=64), FP8 | {"weight_block_size": [64, 64]}, Q80, False),
    Case("fp8-rows", make.fp8("row", name="weight_scale"), {"quant_method": "fbgemm_fp8"}, Q80, False),
    Case("fp8-tensors", make.fp8("tensor", name="weight_scale"), FP8, Q80, False),
    Case("packed", make.compressed(), PACKED, Q40),
    Case("packed-asymmetric", make.compressed(symmetric=False), PACKED, Q50),
    Case("packed-channels", make.compressed(group=None), PACKED, Q40),
    Case("packed-8", make.compressed(8, group=None), PACKED, Q80),
    Case("bytes", make.compressed(8, group=None, in_bytes=True), PACKED | {"format": "int-quantized"}, Q80),
    Case("bytes-4", make.compressed(4, in_bytes=True), PACKED | {"format": "naive-quantized"}, Q80),
    Case("bytes-asymmetric", make.compressed(8, symmetric=False, in_bytes=True), PACKED, Q80, False),
    Case("mlx", make.mlx(), {"group_size": 32, "bits": 4}, Q41),
    Case("mlx-3", make.mlx(3), {"group_size": 32, "bits": 3}, Q41),
    Case("mlx-5", make.mlx(5), {"group_size": 32, "bits": 5}, Q51),
    Case("mlx-6", make.mlx(6), {"group_size": 32, "bits": 6}, Q80, False),
    Case("mlx-8", make.mlx(8), {"group_size": 32, "bits": 8}, Q80, False),
    Case("mlx-mxfp4", make.fp4("mlx"), {"group_size": 32, "bits": 4, "mode": "mxfp4"}, ElementType.MXFP4),
    Case("packed-mxfp4", make.fp4("packed"), PACKED | {"format": "mxfp4-pack-quantized"}, ElementType.MXFP4),
    Case("packed-nvfp4", make.fp4("nvfp4"), PACKED | {"format": "nvfp4-pack-quantized"}, Q80, False),
    Case("modelopt", make.fp4("modelopt"), {"quant_method": "modelopt", "quant_algo": "NVFP4"}, Q80, False),
]
BY_NAME = {case.name: case for case in CASES}
ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def is_in_layer(name: str) -> bool:
    return ".layers." in name


def copies(case: Case, tmp_path: Path) -> tuple[Path, Path]:
    """The head and the embedding stay as they are."""
    return quantised_copy(
        LLAMA, tmp_path, lambda name: case.writer if is_in_layer(name) else None, case.config
    )


def values_of(checkpoint: Checkpoint, name: str) -> np.ndarray:
    tensor = checkpoint.tensors[name]
    read = checkpoint.read(name, (0, tensor.stacked_rows), (0, tensor.n_cols))
    return np.ascontiguousarray(read).view(np.float32)


def logits_of(model: Path | Checkpoint, shares: Sequence[float] = (1.0,)) -> np.ndarray:
    prompt = np.load(LLAMA / "golden.npz")["prompt_ids"].tolist()
    devices = [Reference() for _ in shares]
    with LocalCluster(model, shares=shares, weight_type=None, devices=devices) as cluster:
        steps = Steps(cluster)
        steps.step([Run(CachedSequence(), prompt, Want.ALL)])
        return steps.whole_logits()[: len(prompt)].copy()


@ALL
def test_each_number_is_what_it_means(case: Case, tmp_path: Path) -> None:
    directory, meant = copies(case, tmp_path)
    got, wanted = open_checkpoint(directory, ElementType.F32), open_checkpoint(meant, ElementType.F32)
    for name in wanted.tensors:
        np.testing.assert_array_equal(values_of(got, name), values_of(wanted, name), err_msg=name)


@ALL
def test_matrices_have_the_type_that_holds_them(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory, _ = copies(case, tmp_path)
    checkpoint = open_checkpoint(directory)
    assert {
        tensor.dtype
        for tensor in checkpoint.tensors.values()
        if tensor.is_packed and is_in_layer("." + tensor.name)
    } == {case.dtype}
    assert checkpoint.tensors["head"].dtype is ElementType.Q80
    assert ("in memory they are q80" in caplog.text) == (not case.is_exact)


@ALL
def test_a_part_is_the_part_of_the_whole(case: Case, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(copies(case, tmp_path)[0])
    name = "layers.1.down"
    tensor = checkpoint.tensors[name]
    whole = np.array(checkpoint.read(name, (0, tensor.n_rows), (0, tensor.n_cols)))
    for rows, cols in (((0, 128), (96, 192)), ((5, 6), (256, 288)), ((3, 77), (0, 32)), ((9, 9), (0, 288))):
        part = whole[rows[0] : rows[1], row_bytes(case.dtype, cols[0]) : row_bytes(case.dtype, cols[1])]
        np.testing.assert_array_equal(checkpoint.read(name, rows, cols), part)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case.name in ("gptq", "awq", "packed-asymmetric", "bytes", "mlx", "mlx-mxfp4")
    ],
    ids=lambda case: case.name,
)
def test_logits_are_those_of_what_it_means(case: Case, tmp_path: Path) -> None:
    """The head is q80 for both: it is not quantised, and is rounded the same."""
    directory, meant = copies(case, tmp_path)
    exact = open_checkpoint(meant, ElementType.F32)
    types = exact.model.types
    outer = {"head": ElementType.Q80}
    exact.model = dataclasses.replace(exact.model, types=dataclasses.replace(types, outer=outer))
    exact.tensors = {tensor.name: tensor for tensor in exact.model}
    wanted = logits_of(exact)
    largest = np.abs(wanted).max()
    for shares in ((1.0,), (1.0, 1.0), (3.0, 1.0, 1.0)):
        assert np.abs(logits_of(directory, shares) - wanted).max() <= 1e-4 * largest


def test_fp8_in_q80_loses_a_fifth_of_what_fp8_has_lost(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((128, 288)).astype(np.float32)
    directory, meant = quantised_copy(
        LLAMA,
        tmp_path,
        lambda name: (lambda _: make.fp8()(values)) if name.endswith("1.mlp.down_proj.weight") else None,
        {"quantization_config": FP8},
    )
    of_fp8 = values_of(open_checkpoint(meant, ElementType.F32), "layers.1.down")
    tensor = (checkpoint := open_checkpoint(directory)).tensors["layers.1.down"]
    assert tensor.dtype is Q80
    blocks = checkpoint.read("layers.1.down", (0, 128), (0, 288))
    in_q80 = decode(Q80, blocks, 288)
    lost_by_fp8, lost_by_q80 = np.linalg.norm(of_fp8 - values), np.linalg.norm(in_q80 - of_fp8)
    assert lost_by_q80 < lost_by_fp8 / 5


def test_a_directory_of_gptq_whose_zeros_wrap(tmp_path: Path) -> None:
    """Zeros of 0 in the older format: 1 was taken from all zeros of a word at once."""

    def write(values: make.Floats) -> tuple[make.Stored, make.Floats]:
        parts, _ = make.gptq(v2=True)(values)
        arrays = {
            name: np.frombuffer(data, np.uint32).reshape(shape)
            for name, (_, shape, data) in parts.items()
            if name[0] == "q"
        }
        words = arrays["qzeros"] & np.uint32(0xFF0FFFF0)
        quants, zeros = make.nibbles_of(arrays["qweight"].T), make.nibbles_of(words).T
        scales = (
            np.frombuffer(parts["scales"][2], np.float16).reshape(parts["scales"][1]).T.astype(np.float32)
        )
        of = np.arange(quants.shape[1]) // make.GROUP
        stored = (words - np.uint32(0x11111111)).view(np.int32)
        return parts | {"qzeros": make.entry(stored)}, (quants - zeros[:, of]).astype(np.float32) * scales[
            :, of
        ]

    directory, meant = quantised_copy(
        LLAMA, tmp_path, lambda name: write if is_in_layer(name) else None, {"quantization_config": GPTQ}
    )
    got, wanted = open_checkpoint(directory, ElementType.F32), open_checkpoint(meant, ElementType.F32)
    np.testing.assert_array_equal(values_of(got, "layers.0.up"), values_of(wanted, "layers.0.up"))


class TestBadInput:
    """One line each, naming file and tensor."""

    NAME = "model.layers.1.mlp.up_proj."

    def refusal(self, case: Case, tmp_path: Path, change: Callable[[make.Stored], None]) -> str:
        directory, _ = copies(case, tmp_path)
        file = directory / "model.safetensors"
        tensors = make.read_safetensors(file)
        change(tensors)
        make.write_safetensors(file, tensors)
        with pytest.raises((ModelFileError, UnsupportedModelError)) as caught:
            open_checkpoint(directory)
        message = str(caught.value)
        assert str(file) in message
        assert "\n" not in message
        return message

    @pytest.mark.parametrize(
        ("case", "part"),
        [
            ("gptq", "scales"), ("gptq", "qzeros"), ("awq", "scales"), ("awq", "qzeros"), ("fp8", "weight_scale_inv"),
            ("packed", "weight_scale"), ("mlx", "biases"), ("packed-mxfp4", "weight_scale"),
        ],
    )  # fmt: skip
    def test_a_missing_part(self, case: str, part: str, tmp_path: Path) -> None:
        message = self.refusal(BY_NAME[case], tmp_path, lambda tensors: tensors.pop(self.NAME + part))
        assert f"the tensor {self.NAME}{part} is missing" in message

    @pytest.mark.parametrize(
        ("case", "part"),
        [
            ("gptq", "scales"), ("gptq", "qzeros"), ("gptq", "g_idx"), ("awq", "qweight"), ("awq", "qzeros"),
            ("fp8", "weight"), ("fp8", "weight_scale_inv"), ("packed", "weight_scale"), ("packed", "weight_packed"),
            ("packed-asymmetric", "weight_zero_point"), ("bytes", "weight"), ("mlx", "scales"), ("mlx", "biases"),
            ("mlx-mxfp4", "scales"), ("packed-nvfp4", "weight_scale"),
        ],
    )  # fmt: skip
    def test_one_row_too_many(self, case: str, part: str, tmp_path: Path) -> None:
        def change(tensors: make.Stored) -> None:
            dtype, shape, data = tensors[self.NAME + part]
            row = data[: len(data) // shape[0]]
            tensors[self.NAME + part] = dtype, [shape[0] + 1, *shape[1:]], data + row

        message = self.refusal(BY_NAME[case], tmp_path, change)
        assert self.NAME in message

    def test_groups_that_are_not_there(self, tmp_path: Path) -> None:
        def change(tensors: make.Stored) -> None:
            groups = np.arange(128, dtype=np.int32) // 32
            groups[5] = 4
            tensors[self.NAME + "g_idx"] = make.entry(groups)

        message = self.refusal(BY_NAME["gptq"], tmp_path, change)
        assert f"{self.NAME}g_idx names the groups 0 to 4, and there are 4" in message

    def test_bits_that_are_not_read(self, tmp_path: Path) -> None:
        def change(tensors: make.Stored) -> None:
            tensors[self.NAME + "qweight"] = make.entry(np.zeros((128 * 7 // 32, 288), np.int32))

        message = self.refusal(BY_NAME["gptq"], tmp_path, change)
        assert (
            f"{self.NAME}qweight has 7 bits for each weight, which are not read; read are 2, 3, 4, 8"
            in message
        )

    def test_scales_of_another_type(self, tmp_path: Path) -> None:
        def change(tensors: make.Stored) -> None:
            _, shape, data = tensors[self.NAME + "scales"]
            tensors[self.NAME + "scales"] = ("I16", shape, data)

        assert "scales is stored as I16" in self.refusal(BY_NAME["gptq"], tmp_path, change)

    def test_scales_that_are_no_numbers(self, tmp_path: Path) -> None:
        directory, _ = copies(BY_NAME["gptq"], tmp_path)
        file = directory / "model.safetensors"
        tensors = make.read_safetensors(file)
        name = self.NAME + "scales"
        _, shape, data = tensors[name]
        scales = np.frombuffer(data, np.float16).reshape(shape).copy()
        scales[1, 7] = np.inf
        make.write_safetensors(file, tensors | {name: make.entry(scales)})
        checkpoint = open_checkpoint(directory)
        out = np.empty((288, row_bytes(Q40, 128)), np.uint8)
        with pytest.raises(NumericalError, match="qweight: has NaN, infinity"):
            checkpoint.read("layers.1.up", (0, 288), (0, 128), out)

    @pytest.mark.parametrize(
        ("said", "what"),
        [
            (
                GPTQ | {"checkpoint_format": "marlin"},
                "GPTQ with checkpoint_format 'marlin', which is not read",
            ),
            ({"quant_method": "awq", "version": "gemv"}, "AWQ with version 'gemv'"),
            (PACKED | {"format": "marlin-24"}, "with format 'marlin-24'"),
            (PACKED | {"sparsity_config": {"format": "sparse-bitmask"}}, "with sparse weights"),
            (PACKED | {"transform_config": {"config_groups": {"R1": {}}}}, "with a transform_config"),
            ({"quant_method": "bitsandbytes"}, "by bitsandbytes"),
            ({"quant_method": "brand-new"}, "by 'brand-new'"),
        ],
    )
    def test_ways_that_are_not_read(self, said: dict[str, Any], what: str, tmp_path: Path) -> None:
        case = dataclasses.replace(BY_NAME["gptq"], said=said)
        with pytest.raises(UnsupportedModelError, match="its weights are quantised already") as caught:
            open_checkpoint(copies(case, tmp_path)[0])
        assert what in str(caught.value)


def test_what_is_said_beside_the_text_model_counts(tmp_path: Path) -> None:
    """Where the language model is a part of a larger one (text_config)."""
    directory, _ = copies(BY_NAME["gptq-v2"], tmp_path)
    path = directory / "config.json"
    values = json.loads(path.read_text())
    outer = {
        "quantization_config": values.pop("quantization_config"),
        "model_type": "larger",
        "text_config": values,
    }
    wanted = values_of(open_checkpoint(directory, ElementType.F32), "layers.0.q")
    path.write_text(json.dumps(outer))
    np.testing.assert_array_equal(
        values_of(open_checkpoint(directory, ElementType.F32), "layers.0.q"), wanted
    )
