"""GGUF files of the goldens' models, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from dllama.checkpoint import Checkpoint, open_checkpoint
from dllama.checkpoint.gguf.names import gguf_keys
from dllama.dtypes import ElementType
from dllama.families import Family, family_named, known_families
from dllama.formats.gguf import GgmlType
from dllama.model import ModelConfig
from support import gguf_delta, gguf_latents

TypeOf = Callable[[str], GgmlType]


_N_LAYERS = 32
"""Of which the package knows the names: as many as the real model of the most layers has."""


def families_in_gguf() -> list[Family]:
    return [family for family in map(family_named, known_families()) if family.gguf]


def part_in_gguf(family: Family, config: ModelConfig, name: str) -> str | None:
    """The file's name of what our tensor is a part of, if it is."""
    assert family.gguf is not None
    layer = layer_of(name)
    part = family.gguf.part_of(config.layer(layer), name.rpartition(".")[2])
    return part and part.name(str(layer))


def name_in_hf(family: Family, config: ModelConfig, name: str) -> str:
    layer = layer_of(name)
    part = family.part_of(config.layer(layer), name.rpartition(".")[2])
    is_whole = part is None or part_in_gguf(family, config, name) is None
    return family.hf_name(name) if part is None or is_whole else part.name(str(layer))


def package_name(family: Family, name: str, config: ModelConfig | None = None) -> str:
    """What the `gguf` package calls our tensor, by its name in Hugging Face's files. `config`: of a model with tensors
    that are parts of larger ones."""
    assert family.gguf is not None
    architectures = {text: number for number, text in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(architectures[family.gguf.architecture], _N_LAYERS)
    whole = name_in_hf(family, config, name) if config else family.hf_name(name)
    in_hf = whole.replace(".experts.0.", ".experts.")
    if in_hf.endswith(".sinks"):  # no weight in PyTorch's files, and one in GGUF files
        in_hf += ".weight"
    is_part = config is not None and part_in_gguf(family, config, name) is not None
    if family.fused(name) is not None and not is_part:
        _, part, kind = f"{name.rpartition('.')[2]}_weight".split("_")[:3]
        in_hf = f"{in_hf.rpartition('.')[0]}.{part}_proj.{kind}"
    if name.endswith((".k_b", ".v_b")):  # the converter takes them apart
        in_hf = in_hf.replace("kv_b_proj", f"{name[-3]}_b_proj")
    in_hf = in_hf.replace("in_proj_qkvz", "in_proj_z" if name.endswith("_z") else "in_proj_qkv")  # its parts
    in_hf = in_hf.replace(
        "e_score_correction_bias", "e_score_correction.bias"
    )  # its converter calls it so first
    if in_hf.endswith(".dt_bias"):  # its converter calls it so first
        in_hf = in_hf.replace(".dt_bias", ".dt_proj.bias")
    if name == "head":  # also where llama.cpp knows the family with a tied head only
        return "output.weight"
    found = names.get_name(in_hf, try_suffixes=(".weight", ".bias"))
    assert found is not None, f"the gguf package has no name for {in_hf}"
    return found


def keys_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata for a config.json, without the architecture's name."""
    n_heads, dim = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or dim // n_heads
    said = {"head_dim": head_dim, "num_experts": config.get("num_local_experts"), **config}
    if "linear_num_value_heads" in config:
        inner_size = config["linear_num_value_heads"] * config["linear_value_head_dim"]
        said |= {"linear_inner_size": inner_size, "full_attention_interval": 4}
    if "kv_lora_rank" in config:
        said |= gguf_latents.values_of(config)
    keys = {
        key.name: key.kind(said[name])
        for name, key in gguf_keys(family_named(config["model_type"])).items()
        if said.get(name) is not None
    }
    keys |= {
        "attention.value_length": head_dim,
        "rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "rope.dimension_count": int(head_dim * config["rope_parameters"].get("partial_rotary_factor", 1)),
    }
    if "kv_lora_rank" in config:
        keys |= gguf_latents.keys_of(config)
    rope = config["rope_parameters"]
    kind, factor = rope["rope_type"], float(rope.get("factor", 1))
    if kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if "llama_4_scaling_beta" in rope:
        keys["attention.temperature_scale"] = rope["llama_4_scaling_beta"]
        keys["rope.scaling.yarn_log_multiplier"] = rope["mscale_all_dim"]
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        keys["rope.scaling.original_context_length"] = original
        stretched = math.log(config["max_position_embeddings"] / original)
        keys["rope.scaling.attn_factor"] = math.sqrt(1 + stretched / math.log(original))
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        if "mscale" in rope and not {"llama_4_scaling_beta", "kv_lora_rank"} & {*rope, *config}:
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
    our names. `changes` of the metadata (None: left out) are by full keys, of the `tensors` by the file's names,
    float32 or blocks of Q8_0."""
    config = json.loads((directory / "config.json").read_text())
    checkpoint = open_checkpoint(directory, ElementType.F32)
    family = family_named(config["model_type"])
    assert family.gguf is not None
    architecture = family.gguf.architecture
    keys = {"general.architecture": architecture}
    keys |= {f"{architecture}.{key}": value for key, value in keys_of(config).items()}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (keys | dict(changes or {})).items():
        if value is not None:
            add(writer, key, value)
    changed = dict(tensors or {})
    if any(kind.mixer.has_states for kind in checkpoint.config.kinds):
        changed = gguf_delta.converted(directory, config) | changed
    if "kv_lora_rank" in config:
        changed = gguf_latents.converted(directory, config) | changed
    factors = rope_factors(config)
    if factors is not None:
        changed.setdefault("rope_freqs.weight", factors)
    for length in ("short", "long") if config["rope_parameters"]["rope_type"] == "longrope" else ():
        table = np.array(config["rope_parameters"][f"{length}_factor"], np.float32)
        changed.setdefault(f"rope_factors_{length}.weight", table)
    for stored, values in wholes(checkpoint, family).items():
        changed.setdefault(stored, values)
    for name, spec in checkpoint.tensors.items():
        if part_in_gguf(family, checkpoint.config, name):
            continue
        stored = package_name(family, name, checkpoint.config)
        if stored in changed or (name == "head" and config["tie_word_embeddings"]):
            continue
        values = float_values(checkpoint, name)
        if spec.is_vector or spec.is_table:
            writer.add_tensor(stored, values)
        else:
            kind = gguf.GGMLQuantizationType(type_of(name))
            writer.add_tensor(stored, gguf.quantize(values, kind), raw_dtype=kind)
    for stored, values in changed.items():
        if values is not None:
            raw = gguf.GGMLQuantizationType.Q8_0 if values.dtype == np.uint8 else None
            writer.add_tensor(stored, values, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint.close()
    return path


def layer_of(name: str) -> int:
    """0 outside of layers."""
    return int(name.split(".")[1]) if name.startswith("layers.") else 0


def wholes(checkpoint: Checkpoint, family: Family) -> dict[str, np.ndarray]:
    """What is stored as one, of several of ours, whose rows are there as they are."""
    assert family.gguf is not None
    found: dict[str, np.ndarray] = {}
    for name, spec in checkpoint.tensors.items():
        layer = layer_of(name)
        part = family.gguf.part_of(checkpoint.config.layer(layer), name.rpartition(".")[2])
        if part is None or part.rows is None or part.n_rows is None or part.transposed:
            continue
        whole = found.setdefault(part.name(str(layer)), np.zeros((part.n_rows, spec.n_cols), np.float32))
        whole[part.rows] = float_values(checkpoint, name).reshape(-1, spec.n_cols)
    return found


def float_values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    spec = checkpoint.tensors[name]
    read = checkpoint.read(name, (0, spec.stacked_rows), (0, spec.n_cols)).tobytes()
    return np.frombuffer(read, np.float32).reshape(spec.shape)


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
