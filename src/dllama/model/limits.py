"""How large the numbers of a model may be, whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MOST_POSITIONS = (1 << 31) - 1

LARGEST: Mapping[str, int] = MappingProxyType(
    {
        "dim": 1 << 18,
        "ffn_dim": 1 << 21,
        "n_experts": 1 << 13,
        "n_layers": 1 << 12,
        "n_heads": 1 << 13,
        "n_kv_heads": 1 << 13,
        "head_dim": 1 << 13,
        "n_key_heads": 1 << 13,
        "n_value_heads": 1 << 13,
        "linear_key_dim": 1 << 13,
        "linear_value_dim": 1 << 13,
        "q_lora_rank": 1 << 15,
        "kv_lora_rank": 1 << 13,
        "qk_nope_head_dim": 1 << 13,
        "qk_rope_head_dim": 1 << 13,
        "v_head_dim": 1 << 13,
        "conv_width": 1 << 3,
        "vocab_size": 1 << 24,
        "max_seq_len": MOST_POSITIONS,
        "sliding_window": MOST_POSITIONS,
    }
)
"""Far above any model known in 2026 (Llama 3.1 405B: 126 layers of 16384, FFN 53248), far below what would make a list
of tensors or a size in bytes absurd. A larger number is a damaged file."""

LARGEST_NUMBER = 1e30
"""A float32 has room for it, and for what is computed of it."""


def fault_in_sizes(**sizes: int) -> str | None:
    """What is impossible in these sizes, by their names in LARGEST, as the end of a sentence; None for nothing."""
    for name, value in sizes.items():
        if not 1 <= value <= LARGEST[name]:
            return f"{name} is {value}, which cannot be (1 to {LARGEST[name]})"
    return None
