"""What llama.cpp's converter makes of delta nets and gated attention, from Hugging Face's tensors and not by way of
ours (github.com/ggml-org/llama.cpp, conversion/qwen.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.formats.safetensors import SafetensorsFile

Floats = NDArray[np.float32]


def bf16_tensors(path: Path) -> dict[str, Floats]:
    """Of a safetensors file of bf16, as float32."""
    file = SafetensorsFile(path)
    bits = {name: np.frombuffer(file.bytes_of(name).tobytes(), np.uint16) for name in file.tensors}
    wide = {name: (each.astype(np.uint32) << 16).view(np.float32) for name, each in bits.items()}
    return {name: each.reshape(file.tensors[name].shape) for name, each in wide.items()}


def converted(directory: Path, config: Mapping[str, Any]) -> dict[str, Floats]:
    """The tensors of all layers that are stored otherwise than in the directory, by llama.cpp's names."""
    tensors = bf16_tensors(directory / "model.safetensors")
    found: dict[str, Floats] = {}
    for layer, kind in enumerate(config["layer_types"]):
        prefix = f"model.layers.{layer}."
        own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        of_layer = _attention(own) if kind == "full_attention" else _delta_net(own, config)
        found |= {f"blk.{layer}.{name}": each for name, each in of_layer.items()}
    return found


def _attention(own: Mapping[str, Floats]) -> dict[str, Floats]:
    """As they are: rows of a head its queries, then its gate; halves turn together."""
    return {
        "attn_q.weight": own["self_attn.q_proj.weight"],
        "attn_k.weight": own["self_attn.k_proj.weight"],
        "attn_q_norm.weight": own["self_attn.q_norm.weight"] + 1,
        "attn_k_norm.weight": own["self_attn.k_norm.weight"] + 1,
    }


def _delta_net(own: Mapping[str, Floats], config: Mapping[str, Any]) -> dict[str, Floats]:
    n_k, n_v = config["linear_num_key_heads"], config["linear_num_value_heads"]
    width, value_width, group = config["linear_key_head_dim"], config["linear_value_head_dim"], n_v // n_k
    of = {name.removeprefix("linear_attn."): each for name, each in own.items() if "linear_attn" in name}
    conv = of["conv1d.weight"][:, 0, :]
    if "in_proj_qkvz.weight" in of:
        by_head = of["in_proj_qkvz.weight"].reshape(n_k, 2 * width + 2 * group * value_width, -1)
        places = np.cumsum([width, width, group * value_width])
        q, k, v, z = (part.reshape(-1, by_head.shape[-1]) for part in np.split(by_head, places, axis=1))
        rest = {"ssm_ba.weight": of["in_proj_ba.weight"]}
        turned = lambda rows, n: rows  # noqa: E731
    else:
        qkv, z = of["in_proj_qkv.weight"], of["in_proj_z.weight"]
        q, k, v = np.split(qkv, [n_k * width, 2 * n_k * width])

        def turned(rows: Floats, n: int) -> Floats:
            """The first value head of every key head, then the second of every one."""
            heads = rows.reshape(n_k, group, n, *rows.shape[1:])
            return np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(rows.shape)

        rest = {
            "ssm_beta.weight": turned(of["in_proj_b.weight"], 1),
            "ssm_alpha.weight": turned(of["in_proj_a.weight"], 1),
        }
    n_channels = 2 * n_k * width
    return rest | {
        "attn_qkv.weight": np.concatenate([q, k, turned(v, value_width)]),
        "attn_gate.weight": turned(z, value_width),
        "ssm_conv1d.weight": np.concatenate([conv[:n_channels], turned(conv[n_channels:], value_width)]),
        "ssm_a": -np.exp(turned(of["A_log"], 1)),
        "ssm_dt.bias": turned(of["dt_bias"], 1),
        "ssm_norm.weight": of["norm.weight"],
        "ssm_out.weight": np.ascontiguousarray(turned(of["out_proj.weight"].T.copy(), value_width).T),
    }
