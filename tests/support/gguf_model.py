"""GGUF files of the goldens' models, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.formats.gguf import GgmlType

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
}
NAMES = {
    "embedding": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "gate": "ffn_gate.weight",
    "down": "ffn_down.weight",
    "up": "ffn_up.weight",
    "router": "ffn_gate_inp.weight",
    "experts_gate": "ffn_gate_exps.weight",
    "experts_down": "ffn_down_exps.weight",
    "experts_up": "ffn_up_exps.weight",
    "attention_norm": "attn_norm.weight",
    "ffn_norm": "ffn_norm.weight",
}
TypeOf = Callable[[str], GgmlType]


def gguf_name(name: str) -> str:
    if not name.startswith("layers."):
        return NAMES[name]
    _, layer, part = name.split(".")
    return f"blk.{layer}.{NAMES[part]}"


def keys_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata for a config.json, without the architecture's name."""
    n_heads, dim = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or dim // n_heads
    keys = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": dim,
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": n_heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "rope.dimension_count": head_dim,
    }
    if "num_experts_per_tok" in config:
        keys |= {
            "expert_count": config.get("num_local_experts") or config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
        }
    rope = config["rope_parameters"]
    kind, factor = rope["rope_type"], float(rope.get("factor", 1))
    if kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        if "mscale" in rope:
            usual = 1 + 0.1 * math.log(factor)
            wanted = (1 + 0.1 * rope["mscale"] * math.log(factor)) / (
                1 + 0.1 * rope["mscale_all_dim"] * math.log(factor)
            )
            keys["rope.scaling.attn_factor"] = wanted / usual
    return keys


def rope_factors(config: Mapping[str, Any]) -> np.ndarray | None:
    """The tensor rope_freqs.weight of a model with Llama 3.1's rope."""
    rope = config["rope_parameters"]
    if rope["rope_type"] != "llama3":
        return None
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    original = rope["original_max_position_embeddings"]
    factors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * pair / head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def write_model(
    directory: Path,
    path: Path,
    type_of: TypeOf = lambda name: GgmlType.F32,
    *,
    changes: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
) -> Path:
    """The model in the Hugging Face `directory` as the GGUF file `path`; matrices have the type that `type_of` says by
    our names. `changes` of the metadata (None: left out) are by full keys, of the `tensors` by the file's names."""
    config = json.loads((directory / "config.json").read_text())
    checkpoint = open_checkpoint(directory, ElementType.F32)
    architecture = ARCHITECTURES[config["model_type"]]
    keys = {"general.architecture": architecture}
    keys |= {f"{architecture}.{key}": value for key, value in keys_of(config).items()}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (keys | dict(changes or {})).items():
        if value is not None:
            add(writer, key, value)
    changed = dict(tensors or {})
    factors = rope_factors(config)
    if factors is not None:
        changed.setdefault("rope_freqs.weight", factors)
    for name, spec in checkpoint.tensors.items():
        stored = gguf_name(name)
        if stored in changed or (name == "head" and config["tie_word_embeddings"]):
            continue
        read = checkpoint.read(name, (0, spec.stacked_rows), (0, spec.n_cols)).tobytes()
        values = np.frombuffer(read, np.float32).reshape(spec.shape)
        if spec.is_vector or spec.is_table:
            writer.add_tensor(stored, values)
        else:
            kind = gguf.GGMLQuantizationType(type_of(name))
            writer.add_tensor(stored, gguf.quantize(values, kind), raw_dtype=kind)
    for stored, values in changed.items():
        if values is not None:
            writer.add_tensor(stored, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if key == "general.architecture":  # the writer has written it
        writer.kv_data[0].pop(key, None)
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)
