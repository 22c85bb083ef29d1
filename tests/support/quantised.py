"""Directories whose matrices others have quantised, written from the formats' public descriptions.

Each writer takes a matrix [N, K] of float32 and gives the tensors that stand for it, by the ends of their names, and
what they mean: float32 [N, K], worked out from whole numbers and scales before anything is packed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Stored: TypeAlias = dict[str, tuple[str, list[int], bytes]]
"""Name to dtype, shape, bytes."""
Writer: TypeAlias = Callable[[Floats], tuple[Stored, Floats]]

GROUP = 32
_DTYPES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.int32): "I32",
    np.dtype(np.uint32): "U32",
    np.dtype(np.int64): "I64",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
}


def entry(array: NDArray[Any], dtype: str = "") -> tuple[str, list[int], bytes]:
    return dtype or _DTYPES[array.dtype], list(array.shape), np.ascontiguousarray(array).tobytes()


def bf16(values: Floats) -> tuple[NDArray[np.uint16], Floats]:
    """The nearest below, and what it is."""
    bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def words_of(numbers: NDArray[np.integer[Any]], bits: int) -> NDArray[np.int32]:
    """The last axis as a stream of bits in words of 32, lowest first, one number after another."""
    *before, n = numbers.shape
    words = np.zeros((*before, -(-n * bits // 32)), np.uint64)
    for at in range(n):
        word, shift = divmod(at * bits, 32)
        value = numbers[..., at].astype(np.uint64) << np.uint64(shift)
        words[..., word] |= value & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            words[..., word + 1] |= value >> np.uint64(32)
    return words.astype(np.uint32).view(np.int32)


def nibbles_of(words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """The inverse of words_of for numbers of four bits."""
    numbers = words[..., None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    return numbers.reshape(*words.shape[:-1], -1).astype(np.int32)


def grouped(
    values: Floats,
    bits: int,
    *,
    group: int = GROUP,
    symmetric: bool = False,
    group_of: NDArray[Any] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float16], Floats]:
    """Quants [N, K] and zeros [N, G], both from 0 on, scales [N, G], and what they mean. Zeros are 1 and more."""
    n_cols = values.shape[1]
    of = np.arange(n_cols) // group if group_of is None else group_of
    n_groups, top = int(of.max()) + 1, 2**bits - 1
    low = np.stack([np.minimum(values[:, of == g].min(1), 0) for g in range(n_groups)], 1)
    high = np.stack([np.maximum(values[:, of == g].max(1), 0) for g in range(n_groups)], 1)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    scales = np.maximum((high - low) / top, 1e-3).astype(np.float16)
    wide = scales.astype(np.float32)
    zeros = np.full(wide.shape, 2 ** (bits - 1)) if symmetric else np.clip(np.rint(-low / wide), 1, top)
    zeros = zeros.astype(np.int32)
    quants = np.clip(np.rint(values / wide[:, of]) + zeros[:, of], 0, top).astype(np.int32)
    return quants, zeros, scales, ((quants - zeros[:, of]) * wide[:, of]).astype(np.float32)


def gptq(
    bits: int = 4, *, symmetric: bool = False, v2: bool = False, act_order: bool = False, group: int = GROUP
) -> Writer:
    def write(values: Floats) -> tuple[Stored, Floats]:
        n_cols = values.shape[1]
        group_of = np.arange(n_cols) // group
        if act_order:
            group_of = np.random.default_rng(n_cols).permutation(group_of)
        quants, zeros, scales, meant = grouped(values, bits, symmetric=symmetric, group_of=group_of)
        stored_zeros = zeros if v2 else zeros - 1
        return {
            "qweight": entry(words_of(quants, bits).T),
            "qzeros": entry(words_of(stored_zeros.T, bits)),
            "scales": entry(scales.T),
            "g_idx": entry(group_of.astype(np.int32)),
        }, meant

    return write


def awq(group: int = GROUP) -> Writer:
    def packed(numbers: NDArray[Any]) -> NDArray[np.int32]:
        """[M, N] to words [M, N / 8]."""
        in_order = numbers.reshape(len(numbers), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return words_of(in_order, 4)[..., 0]

    def write(values: Floats) -> tuple[Stored, Floats]:
        quants, zeros, scales, meant = grouped(values, 4, group=group)
        return {
            "qweight": entry(packed(quants.T)),
            "qzeros": entry(packed(zeros.T)),
            "scales": entry(scales.T),
        }, meant

    return write


E4M3 = np.array(
    [
        (-1 if byte & 128 else 1)
        * (
            (byte & 7) / 8 * 2.0**-6
            if not byte >> 3 & 15
            else (1 + (byte & 7) / 8) * 2.0 ** ((byte >> 3 & 15) - 7)
        )
        for byte in range(256)
    ],
    np.float32,
)
"""0x7F and 0xFF are NaN, and are not written."""


def to_e4m3(values: Floats) -> NDArray[np.uint8]:
    positive = E4M3[:127]
    nearest = np.searchsorted((positive[1:] + positive[:-1]) / 2, np.abs(values))
    return (nearest + 128 * (values < 0)).astype(np.uint8)


def fp8(scale: str = "block", block: int = 128, name: str = "weight_scale_inv") -> Writer:
    """Scales are powers of two: then what they mean is in f16 as it is."""

    def write(values: Floats) -> tuple[Stored, Floats]:
        n_rows, n_cols = values.shape
        height, width = {"block": (block, block), "row": (1, n_cols), "tensor": (n_rows, n_cols)}[scale]
        n_high, n_wide = -(-n_rows // height), -(-n_cols // width)
        scales = np.empty((n_high, n_wide), np.float32)
        for i in range(n_high):
            for j in range(n_wide):
                largest = np.abs(values[i * height : (i + 1) * height, j * width : (j + 1) * width]).max()
                scales[i, j] = 2.0 ** np.ceil(np.log2(largest / 448 + 1e-9))
        whole = np.repeat(np.repeat(scales, height, 0)[:n_rows], width, 1)[:, :n_cols]
        codes = to_e4m3(values / whole)
        shaped = scales if scale != "tensor" else scales.reshape(())
        return {
            "weight": entry(codes, "F8_E4M3"),
            name: entry(shaped),
            "input_scale": entry(np.ones(1, np.float32)),
        }, E4M3[codes] * whole

    return write


def compressed(
    bits: int = 4, *, symmetric: bool = True, group: int | None = GROUP, in_bytes: bool = False
) -> Writer:
    """pack-quantized, or int-quantized: in bytes. Scales are BF16."""

    def write(values: Floats) -> tuple[Stored, Floats]:
        n_cols = values.shape[1]
        width = group or n_cols
        quants, zeros, scales, _ = grouped(values, bits, symmetric=symmetric, group=width)
        stored, wide = bf16(scales.astype(np.float32))
        of = np.arange(n_cols) // width
        meant = ((quants - zeros[:, of]) * wide[:, of]).astype(np.float32)
        middle = 2 ** (bits - 1)
        parts: Stored = {"weight_scale": entry(stored, "BF16")}
        if in_bytes:
            parts["weight"] = entry((quants - middle).astype(np.int8))
            if not symmetric:
                parts["weight_zero_point"] = entry((zeros - middle).astype(np.int8))
            return parts, meant
        parts["weight_packed"] = entry(words_of(quants, bits))
        parts["weight_shape"] = entry(np.array(values.shape, np.int64))
        if not symmetric:
            parts["weight_zero_point"] = entry(words_of(zeros.T, bits).T)
        return parts, meant

    return write


def mlx(bits: int = 4, group: int = GROUP) -> Writer:
    def write(values: Floats) -> tuple[Stored, Floats]:
        n_rows = len(values)
        groups = values.reshape(n_rows, -1, group)
        low, high = groups.min(2), groups.max(2)
        scales = np.maximum((high - low) / (2**bits - 1), 1e-3).astype(np.float16)
        biases = low.astype(np.float16)
        wide, least = scales.astype(np.float32)[..., None], biases.astype(np.float32)[..., None]
        quants = np.clip(np.rint((groups - least) / wide), 0, 2**bits - 1)
        return {
            "weight": entry(words_of(quants.reshape(n_rows, -1).astype(np.int32), bits).view(np.uint32)),
            "scales": entry(scales),
            "biases": entry(biases),
        }, (quants.astype(np.float32) * wide + least).reshape(n_rows, -1)

    return write


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def fp4(kind: str) -> Writer:
    """MXFP4 of compressed-tensors ("packed") or MLX ("mlx"); NVFP4 of compressed-tensors or ModelOpt ("modelopt")."""
    width = 32 if kind in ("packed", "mlx") else 16

    def write(values: Floats) -> tuple[Stored, Floats]:
        n_rows = len(values)
        groups = values.reshape(n_rows, -1, width)
        wanted = np.abs(groups).max(2) / 6 + 1e-9
        if width == 32:
            codes = np.clip(np.ceil(np.log2(wanted)) + 127, 0, 254).astype(np.uint8)
            scales, of_all = 2.0 ** (codes.astype(np.float32) - 127), np.float32(1)
        else:
            of_all = np.float32(2.0 ** np.ceil(np.log2(wanted.max() / 448)))
            codes = to_e4m3((wanted / of_all).astype(np.float32))
            scales = np.maximum(E4M3[codes], 2.0**-9) * of_all
        nearest = np.searchsorted((E2M1[1:] + E2M1[:-1]) / 2, np.abs(groups / scales[..., None]))
        nibbles = (nearest + 8 * (groups < 0)).reshape(n_rows, -1).astype(np.uint8)
        pairs = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
        table = np.concatenate([E2M1, -E2M1])
        used = scales if width == 32 else E4M3[codes] * of_all
        meant = (table[nibbles].reshape(groups.shape) * used[..., None]).reshape(n_rows, -1)
        if kind == "mlx":
            return {"weight": entry(pairs.view(np.uint32)), "scales": entry(codes)}, meant.astype(np.float32)
        if kind == "packed":
            return {"weight_packed": entry(pairs), "weight_scale": entry(codes)}, meant.astype(np.float32)
        scale = entry(codes, "F8_E4M3")
        if kind == "modelopt":
            parts = {
                "weight": entry(pairs),
                "weight_scale": scale,
                "weight_scale_2": entry(of_all.reshape(())),
            }
        else:
            inverse = np.float32(1) / of_all
            parts = {
                "weight_packed": entry(pairs),
                "weight_scale": scale,
                "weight_global_scale": entry(inverse.reshape(1)),
            }
        return parts, meant.astype(np.float32)

    return write


def read_safetensors(path: Path) -> Stored:
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    return {
        name: (each["dtype"], each["shape"], data[8 + n :][slice(*each["data_offsets"])])
        for name, each in json.loads(data[8 : 8 + n]).items()
        if name != "__metadata__"
    }


def write_safetensors(path: Path, tensors: Stored) -> None:
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def quantised_copy(
    source: Path,
    target: Path,
    writer_of: Callable[[str], Writer | None],
    config: Mapping[str, Any],
) -> tuple[Path, Path]:
    """Of the model in `source`, of one file in BF16: `target`/quantised with the matrices that `writer_of` names a
    writer for, by their names, and `target`/meant with what these mean in F32. `config` are keys of the first one's
    config."""
    quantised: Stored = {}
    meant: Stored = {}
    for name, (dtype, shape, data) in read_safetensors(source / "model.safetensors").items():
        writer = writer_of(name) if len(shape) == 2 else None
        quantised[name] = meant[name] = (dtype, shape, data)
        if writer is not None:
            bits = np.frombuffer(data, np.uint16).reshape(shape)
            parts, values = writer((bits.astype(np.uint32) << 16).view(np.float32))
            del quantised[name]
            quantised |= {name.removesuffix("weight") + part: each for part, each in parts.items()}
            meant[name] = entry(values)
    said = json.loads((source / "config.json").read_text())
    for folder, tensors, more in (("quantised", quantised, config), ("meant", meant, {})):
        (target / folder).mkdir(parents=True)
        write_safetensors(target / folder / "model.safetensors", tensors)
        (target / folder / "config.json").write_text(json.dumps(said | more))
    return target / "quantised", target / "meant"
