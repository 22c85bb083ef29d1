"""The rope scaling of a `.m` header becomes that of a Rope, and back.

Distributed Llama knows Llama 3.1's scaling, of adjacent pairs (rope type 2). That of halves, and YaRN, are extensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dllama.checkpoint.m.numbers import bits_of_float, float_of_bits, number, number_pair
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.m_file import MKey
from dllama.model import FactorScaling, Rope, RopeScaling, RopeStyle, YarnScaling

ROPE_ADJACENT, ROPE_HALVES, ROPE_SCALED = 0, 1, 2

_YARN = (
    MKey.YARN_BETA_FAST_BITS,
    MKey.YARN_BETA_SLOW_BITS,
    MKey.YARN_ATTENTION_FACTOR_BITS,
    MKey.YARN_TRUNCATE,
)


def read_scaling(pairs: Mapping[MKey, int], is_llama: bool, path: Path) -> RopeScaling | YarnScaling | None:
    """Raises ModelFileError when the rope's kind is not known. Distributed Llama scales a llama of rope type 2 only,
    whatever other keys are there."""
    if pairs.keys() & set(_YARN):
        return _read_yarn(pairs, path)
    rope_type = pairs.get(MKey.ROPE_TYPE, ROPE_ADJACENT)
    is_scaled_halves = pairs.get(MKey.ROPE_SCALED_HALVES) == 1
    if not is_scaled_halves and (rope_type in (ROPE_ADJACENT, ROPE_HALVES) or not is_llama):
        return None
    if not is_scaled_halves and rope_type != ROPE_SCALED:
        raise ModelFileError(f"{path}: its header has ROPE_TYPE {rope_type}; known are 0, 1, 2")
    return RopeScaling(
        factor=number(pairs, MKey.ROPE_SCALING_FACTOR, MKey.ROPE_SCALING_FACTOR_BITS, 0.0),
        low_freq_factor=number(pairs, MKey.ROPE_LOW_FREQ_FACTOR, MKey.ROPE_LOW_FREQ_FACTOR_BITS, 0.0),
        high_freq_factor=number(pairs, MKey.ROPE_HIGH_FREQ_FACTOR, MKey.ROPE_HIGH_FREQ_FACTOR_BITS, 0.0),
        original_max_seq_len=pairs.get(MKey.ROPE_ORIGINAL_MAX_SEQ_LEN, 0),
    )


def _read_yarn(pairs: Mapping[MKey, int], path: Path) -> YarnScaling:
    for key in _YARN:
        if key not in pairs:
            raise ModelFileError(f"{path}: its header is damaged: it lacks the key {int(key)} ({key.name})")
    return YarnScaling(
        factor=number(pairs, MKey.ROPE_SCALING_FACTOR, MKey.ROPE_SCALING_FACTOR_BITS, 0.0),
        beta_fast=float_of_bits(pairs[MKey.YARN_BETA_FAST_BITS]),
        beta_slow=float_of_bits(pairs[MKey.YARN_BETA_SLOW_BITS]),
        original_max_seq_len=pairs.get(MKey.ROPE_ORIGINAL_MAX_SEQ_LEN, 0),
        attention_factor=float_of_bits(pairs[MKey.YARN_ATTENTION_FACTOR_BITS]),
        truncate=pairs[MKey.YARN_TRUNCATE] != 0,
    )


def scaling_pairs(rope: Rope) -> list[tuple[MKey, int]]:
    """Rope type and scaling. Raises UnsupportedModelError for what the format has no keys for."""
    scaling = rope.scaling
    halves = [(MKey.ROPE_TYPE, ROPE_HALVES)] if rope.style is RopeStyle.HALVES else []
    if scaling is None:
        return halves
    if isinstance(scaling, FactorScaling):
        raise UnsupportedModelError("the .m format has no keys for a rope with a factor for each pair")
    pairs = [
        number_pair(MKey.ROPE_SCALING_FACTOR, MKey.ROPE_SCALING_FACTOR_BITS, scaling.factor),
        (MKey.ROPE_ORIGINAL_MAX_SEQ_LEN, scaling.original_max_seq_len),
    ]
    if isinstance(scaling, YarnScaling):
        numbers = (scaling.beta_fast, scaling.beta_slow, scaling.attention_factor)
        yarn = [(key, bits_of_float(value)) for key, value in zip(_YARN[:3], numbers, strict=True)]
        return [*halves, *pairs, *yarn, (MKey.YARN_TRUNCATE, int(scaling.truncate))]
    pairs[1:1] = [
        number_pair(MKey.ROPE_LOW_FREQ_FACTOR, MKey.ROPE_LOW_FREQ_FACTOR_BITS, scaling.low_freq_factor),
        number_pair(MKey.ROPE_HIGH_FREQ_FACTOR, MKey.ROPE_HIGH_FREQ_FACTOR_BITS, scaling.high_freq_factor),
    ]
    if halves:
        return [*halves, *pairs, (MKey.ROPE_SCALED_HALVES, 1)]
    return [(MKey.ROPE_TYPE, ROPE_SCALED), *pairs]
