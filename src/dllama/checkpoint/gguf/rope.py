"""The rope of a GGUF file, by the names of config.json.

llama.cpp scales by `rope.scaling.type` (none, linear, yarn, longrope; linear where only a factor is given). Llama 3.1's
scaling has no type: the file has the factor of each pair as a tensor, and its numbers are found again from these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.gguf.names import ROPE_FACTORS, SHORT_FACTORS
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.gguf import Metadata
from dllama.model import shortest_float32
from dllama.plain_text import LONGEST_NAME, plain_line

_DEFAULT_THETA = 10000.0
_KNOWN = "none, linear and yarn"

_USUAL = (1.0, 4.0, 8192)
"""low_freq_factor, high_freq_factor and original context of all Llama models from 3.1 on."""

_FACTOR_ERROR = 1e-3
"""The factors are float32, of converters that computed in float32: pi, powers and quotients lose a few of its 24 bits.
Another rule differs by more than a thousandth somewhere."""


class RopeKeys(Protocol):
    @property
    def metadata(self) -> Metadata: ...
    def name(self, key: str) -> str: ...
    def whole(self, key: str, default: int | None = None) -> int: ...
    def number(self, key: str, default: float | None = None) -> float: ...


def rope_values(
    keys: RopeKeys, max_seq_len: int, head_dim: int, factors: Mapping[str, NDArray[np.uint8]]
) -> dict[str, Any]:
    """rope_theta, rope_scaling and partial_rotary_factor; `factors`: the bytes of the tensors ROPE_FACTORS and
    SHORT_FACTORS, those that there are.

    Raises UnsupportedModelError for scalings that are not known, ModelFileError for what cannot be.
    """
    theta = keys.number("rope.freq_base", _DEFAULT_THETA)
    values: dict[str, Any] = {"rope_theta": theta}
    n_rotated = keys.whole("rope.dimension_count", head_dim)
    if n_rotated != head_dim and head_dim > 0:
        values["partial_rotary_factor"] = n_rotated / head_dim
    if SHORT_FACTORS in factors:
        return values | {"rope_scaling": _long_rope(factors[SHORT_FACTORS], max_seq_len, keys)}
    scaling = _scaling(keys, max_seq_len)
    if ROPE_FACTORS in factors:
        if scaling is not None:
            raise UnsupportedModelError(
                f"{keys.metadata.path}: has {ROPE_FACTORS} beside {keys.name('rope.scaling.type')}, which is not"
                " supported"
            )
        scaling = _llama3(factors[ROPE_FACTORS], theta, n_rotated, keys)
    return values if scaling is None else values | {"rope_scaling": scaling}


def _long_rope(factors: NDArray[np.uint8], max_seq_len: int, keys: RopeKeys) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": [shortest_float32(each) for each in np.frombuffer(factors.tobytes(), "<f4")],
        "attention_factor": keys.number("rope.scaling.attn_factor", 1.0),
        "original_max_position_embeddings": keys.whole("rope.scaling.original_context_length", max_seq_len),
    }


def _scaling(keys: RopeKeys, max_seq_len: int) -> dict[str, Any] | None:
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 0.0))
    kind = keys.metadata.find(keys.name("rope.scaling.type"), str) or "linear"
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedModelError(
            f"{keys.metadata.path}: the rope scaling {plain_line(repr(kind), LONGEST_NAME)} is not supported;"
            f" supported are {_KNOWN}"
        )
    # llama.cpp multiplies by this, and then by what YaRN itself asks for
    attention = keys.number("rope.scaling.attn_factor", 1.0)
    attention *= keys.number("rope.scaling.yarn_attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": keys.whole("rope.scaling.original_context_length", max_seq_len),
        "beta_fast": keys.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": keys.number("rope.scaling.yarn_beta_slow", 1.0),
        "attention_factor": attention * (1.0 if factor <= 1 else 1.0 + 0.1 * math.log(factor)),
    }


def _llama3(factors: NDArray[np.uint8], theta: float, n_rotated: int, keys: RopeKeys) -> dict[str, Any]:
    """The rule of Llama 3.1 that divides frequencies by these `factors`: the largest is its own."""
    found = np.frombuffer(factors.tobytes(), "<f4").astype(np.float64)
    if len(found) != n_rotated // 2 or not np.all((found >= 1) & np.isfinite(found)):
        raise ModelFileError(
            f"{keys.metadata.path}: {ROPE_FACTORS} is damaged: it has {len(found)} factors for {n_rotated // 2} pairs,"
            " or one below 1; download it again"
        )
    factor = float(found.max())
    turns = theta ** -(np.arange(len(found)) / len(found)) / (2 * np.pi)  # of each pair, for each position
    for low, high, original in (_USUAL, *_fitted(found, turns, factor)):
        kept = np.clip((original * turns - low) / (high - low), 0, 1)
        if np.allclose(found * (kept + (1 - kept) / factor), 1, rtol=0, atol=_FACTOR_ERROR):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise UnsupportedModelError(
        f"{keys.metadata.path}: {ROPE_FACTORS} scales otherwise than the rule of Llama 3.1, which is the one that is"
        " supported"
    )


def _fitted(
    factors: NDArray[np.float64], turns: NDArray[np.float64], factor: float
) -> list[tuple[float, float, int]]:
    """Low, high and original context of the rules that go through the pairs between kept and stretched ones.

    What is kept of a pair, 1 / its factor being kept + (1 - kept) / `factor`, is a straight line over its turns. Its
    two numbers say low, high and original context but for a common multiple: low is taken near 1. Where there is one
    pair only, high is the usual one.
    """
    kept = (factor / factors - 1) / max(factor - 1, 1e-9)
    between = (kept > _FACTOR_ERROR) & (kept < 1 - _FACTOR_ERROR)
    if not between.any():
        return []
    low, high, _ = _USUAL
    usual = [
        (low, high, max(round(float(np.mean((low + (high - low) * kept[between]) / turns[between]))), 1))
    ]
    if between.sum() < 2:
        return usual
    slope, start = np.polyfit(turns[between], kept[between], 1)
    if not slope > 0 > start:
        return usual
    original = max(round(-slope / start), 1)
    return [*usual, (float(-start * original / slope), float((1 - start) * original / slope), original)]
