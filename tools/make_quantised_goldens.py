"""Makes tests/checkpoint/hf/quantised_by_others/: a matrix as MLX and compressed-tensors store it, and what it means.

REFERENCE/bin/pip install mlx[cpu] compressed-tensors safetensors
REFERENCE/bin/python tools/make_quantised_goldens.py
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "checkpoint" / "hf" / "quantised_by_others"
SHAPE = (16, 96)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for bits in (2, 3, 4, 5, 6, 8):
        parts = mx.quantize(mx.array(values.astype(np.float16)), group_size=32, bits=bits)
        wide = [each.astype(mx.float32) for each in parts[1:]]
        meant = mx.dequantize(parts[0], *wide, group_size=32, bits=bits)
        save(
            f"mlx-{bits}", zip(("weight", "scales", "biases"), map(of_mlx, parts), strict=True), of_mlx(meant)
        )
    parts = mx.quantize(mx.array(values), group_size=32, bits=4, mode="mxfp4")
    meant = mx.dequantize(*parts, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
    save("mlx-mxfp4", zip(("weight", "scales"), map(of_mlx, parts), strict=True), of_mlx(meant))
    for bits in (4, 8):
        for symmetric in (True, False):
            packed(f"packed-{bits}-{'symmetric' if symmetric else 'asymmetric'}", values, bits, symmetric)


def packed(name: str, values: np.ndarray, bits: int, symmetric: bool) -> None:
    of = QuantizationArgs(num_bits=bits, type="int", strategy="group", group_size=32, symmetric=symmetric)
    weights = torch.from_numpy(values)
    groups = weights.reshape(SHAPE[0], -1, 32)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = ((high - low) / (2**bits - 1)).bfloat16().float()
    zero = torch.zeros_like(scale) if symmetric else torch.round(-(2 ** (bits - 1)) - low / scale)
    zero = zero.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)
    quants = quantize(weights, scale, zero, of, dtype=torch.int8)
    parts = {
        "weight_packed": pack_to_int32(quants, bits),
        "weight_scale": scale.bfloat16(),
        "weight_shape": torch.tensor(SHAPE),
    }
    if not symmetric:
        parts["weight_zero_point"] = pack_to_int32(zero, bits, packed_dim=0).contiguous()
    save(name, parts.items(), dequantize(quants, scale, zero, of))


def of_mlx(array: mx.array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def save(name: str, parts: object, meant: torch.Tensor) -> None:
    tensors = {f"layer.{part}": tensor for part, tensor in parts}
    save_file(tensors | {"meant": meant.float().contiguous()}, FOLDER / f"{name}.safetensors")
    print(name, meant.flatten()[:3].tolist())


if __name__ == "__main__":
    main()
