"""GGUF files of random weights in ggml's types of 256 weights a block, which no shape of the goldens has room for."""

from __future__ import annotations

import itertools
from pathlib import Path

import gguf
import numpy as np

from dllama.bench.random_blocks import random_blocks
from dllama.checkpoint.gguf.names import gguf_name
from dllama.families import family_named
from dllama.formats.gguf import GgmlType
from support.gguf_model import add

DIM, VOCAB, N_LAYERS = 256, 300, 2
KINDS = (GgmlType.Q4_K, GgmlType.Q6_K, GgmlType.Q5_K, GgmlType.IQ4_XS)


def write_k_model(
    path: Path, *, n_heads: int, head_dim: int, ffn_dim: int, n_experts: int = 0, seed: int = 0
) -> Path:
    """A llama, or a qwen3_moe whose rows go to two experts: one KV head for two query heads, and matrices that take
    turns in their types."""
    random = np.random.default_rng(seed)
    architecture, family = ("qwen3moe", "qwen3_moe") if n_experts else ("llama", "llama")
    of_family = family_named(family)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in _keys(n_heads, head_dim, ffn_dim, n_experts).items():
        add(writer, f"{architecture}.{key}", value)
    kinds = itertools.cycle(KINDS)

    def floats(name: str, *shape: int, mean: float = 0) -> None:
        writer.add_tensor(
            gguf_name(of_family, name), mean + random.standard_normal(shape).astype(np.float32) / 8
        )

    def blocks(kind: GgmlType, name: str, *shape: int) -> None:
        dtype = kind.element_type
        assert dtype is not None
        data = random_blocks(random, dtype, int(np.prod(shape)) // kind.block, shape[-1] ** -0.5)
        stored = gguf.GGMLQuantizationType(kind)
        writer.add_tensor(gguf_name(of_family, name), data.reshape(*shape[:-1], -1), raw_dtype=stored)

    floats("embedding", VOCAB, DIM)
    for layer in range(N_LAYERS):
        at, width = f"layers.{layer}.", n_heads * head_dim
        for norm in ("attention_norm", "ffn_norm"):
            floats(at + norm, DIM, mean=1)
        for part, n_out, n_in in (
            ("q", width, DIM),
            ("k", width // 2, DIM),
            ("v", width // 2, DIM),
            ("o", DIM, width),
        ):
            blocks(next(kinds), at + part, n_out, n_in)
        gated = next(kinds)
        if n_experts:
            for norm in ("q_norm", "k_norm"):
                floats(at + norm, head_dim, mean=1)
            floats(f"{at}router", n_experts, DIM)
            for part in ("experts_gate", "experts_up"):
                blocks(gated, at + part, n_experts, ffn_dim, DIM)
            blocks(next(kinds), f"{at}experts_down", n_experts, DIM, ffn_dim)
        else:
            for part in ("gate", "up"):
                blocks(gated, at + part, ffn_dim, DIM)
            blocks(next(kinds), f"{at}down", DIM, ffn_dim)
        next(kinds)  # the next layer begins with another type
    floats("final_norm", DIM, mean=1)
    blocks(GgmlType.Q6_K, "head", VOCAB, DIM)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keys(n_heads: int, head_dim: int, ffn_dim: int, n_experts: int) -> dict[str, int | float]:
    keys: dict[str, int | float] = {
        "context_length": 256,
        "embedding_length": DIM,
        "block_count": N_LAYERS,
        "feed_forward_length": ffn_dim,
        "attention.head_count": n_heads,
        "attention.head_count_kv": n_heads // 2,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }
    if n_experts:
        keys |= {"expert_count": n_experts, "expert_used_count": 2, "expert_feed_forward_length": ffn_dim}
    else:
        keys["rope.dimension_count"] = head_dim
    return keys
