"""What a model is, whatever file it came from: sizes, rope, norms. No weights."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np

from dllama.dtypes import ElementType


class RopeStyle(enum.StrEnum):
    """Which two elements of a head rotate together: (2i, 2i+1) or (i, i + E/2)."""

    ADJACENT = "adjacent"
    HALVES = "halves"


class Activation(enum.StrEnum):
    SILU = "silu"
    GELU = "gelu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's stretching of the low frequencies (`rope_type: llama3` of Hugging Face's config.json)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_seq_len: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN's stretching (Peng et al. 2023, arXiv:2309.00071): pairs that turn less than `beta_slow` times within
    the original context are slowed by `factor`, those that turn more than `beta_fast` times stay, those between are
    blended. Cosine and sine are multiplied by `attention_factor`. `truncate`: the borders of the blend are whole
    pairs."""

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_seq_len: int
    attention_factor: float
    truncate: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """D `dim`, F `ffn_dim`, L `n_layers`, H `n_heads`, K `n_kv_heads`, E `head_dim`, V `vocab_size`."""

    family: str
    dim: int
    ffn_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int
    norm_eps: float
    rope_theta: float
    rope_style: RopeStyle
    rope_scaling: RopeScaling | YarnScaling | None
    activation: Activation
    qkv_bias: bool
    qk_norm: bool
    sliding_window: int | None
    weight_type: ElementType

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"weight_type": self.weight_type.label}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of to_json. Raises KeyError, TypeError or ValueError on anything else."""
        scaling = values["rope_scaling"]
        return cls(
            **values
            | {
                "rope_style": RopeStyle(values["rope_style"]),
                "rope_scaling": None if scaling is None else _scaling_from_json(scaling),
                "activation": Activation(values["activation"]),
                "weight_type": ElementType.from_label(values["weight_type"]),
            }
        )


def shortest_float32(value: float | np.float32) -> float:
    """The shortest decimal number of those that are the same float32: 9.999999747378752e-06 is 1e-05."""
    with np.errstate(over="ignore"):  # too large is infinite, which is refused (families/limits.py)
        return float(str(np.float32(value)))


def _scaling_from_json(values: dict[str, Any]) -> RopeScaling | YarnScaling:
    return YarnScaling(**values) if "attention_factor" in values else RopeScaling(**values)
