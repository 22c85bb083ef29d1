"""The rope of a model, by the keys of config.json.

Meaning and defaults are those of transformers' `modeling_rope_utils.py`. Both spellings are read: `rope_theta` with
`rope_scaling`, and transformers 5's `rope_parameters`.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib

from dllama.errors import ModelFileError
from dllama.families.keys import Keys
from dllama.model import FactorScaling, RopeScaling, YarnScaling, shortest_float32

_DEFAULT_THETA = 10000.0
_ORIGINAL = "original_max_position_embeddings"


@dataclasses.dataclass(frozen=True)
class ReadRope:
    theta: float
    scaling: RopeScaling | YarnScaling | FactorScaling | None
    max_seq_len: int
    """The longest text: where YaRN says how far it stretches, that far; with LongRoPE the original context."""
    fraction: float
    """Of each head, how much turns (partial_rotary_factor)."""


def read_rope(keys: Keys, max_positions: int) -> ReadRope:
    """The rope of a model of `max_positions` (max_position_embeddings). Errors name the file and the key."""
    rope = keys.table("rope_parameters") or keys.table("rope_scaling") or Keys({}, keys.path)
    theta = rope.number("rope_theta", keys.number("rope_theta", _DEFAULT_THETA))
    fraction = rope.number("partial_rotary_factor", keys.number("partial_rotary_factor", 1.0))
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise keys.unsupported("ropes that differ between layers (nested rope_parameters) are not supported")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "yarn":
        scaling = _yarn(keys, rope, max_positions)
        stretched = int(min(scaling.factor * scaling.original_max_seq_len, 1 << 62))
        return ReadRope(theta, scaling, max(max_positions, stretched), fraction)
    if kind in ("default", "dynamic"):  # dynamic is for texts longer than max_positions, and there are none
        return ReadRope(theta, None, max_positions, fraction)
    if kind == "linear":
        return ReadRope(theta, _linear(rope.number("factor")), max_positions, fraction)
    if kind == "llama3":
        return ReadRope(theta, _llama3(keys, rope, max_positions), max_positions, fraction)
    if kind in ("longrope", "su"):
        original = _original(keys, rope, max_positions)
        return ReadRope(theta, _long_rope(keys, rope, max_positions), min(original, max_positions), fraction)
    raise keys.unsupported(
        f"the rope scaling {reprlib.repr(kind)} is not supported; supported are default, linear, dynamic,"
        " llama3, yarn and longrope"
    )


def _llama3(keys: Keys, rope: Keys, max_positions: int) -> RopeScaling:
    return RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_max_seq_len=_original(keys, rope, max_positions),
    )


def _linear(factor: float) -> RopeScaling:
    """Divides every frequency by `factor`.

    Llama 3.1's rule does that to wavelengths above original_max_seq_len / low_freq_factor. With 1 / 1 these
    are all of them, because the shortest wavelength of a rope is 2 pi.
    """
    return RopeScaling(factor=factor, low_freq_factor=1.0, high_freq_factor=2.0, original_max_seq_len=1)


def _long_rope(keys: Keys, rope: Keys, max_positions: int) -> FactorScaling:
    """That of texts within the original context, beyond which all of a text has other frequencies."""
    original, factors = _original(keys, rope, max_positions), rope.get("short_factor")
    if not isinstance(factors, list) or not all(type(each) in (int, float) for each in factors):
        raise ModelFileError(f"{keys.path}: short_factor must be a list of numbers")
    if original < 2:
        raise ModelFileError(f"{keys.path}: {_ORIGINAL} is {original}, which cannot be (2 or more)")
    factor = rope.number("factor", max_positions / original)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return FactorScaling(
        factors=tuple(float(each) for each in factors),
        attention_factor=shortest_float32(rope.number("attention_factor", usual)),
    )


def _yarn(keys: Keys, rope: Keys, max_positions: int) -> YarnScaling:
    original = _original(keys, rope, max_positions)
    if original < 1:
        raise ModelFileError(f"{keys.path}: {_ORIGINAL} is {original}, which cannot be (1 or more)")
    factor = rope.number("factor", max_positions / original)
    mscale, mscale_all_dim = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    usual = yarn_magnitude(factor, 1.0)
    if mscale and mscale_all_dim:
        usual = yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all_dim)
    return YarnScaling(
        factor=factor,
        beta_fast=rope.number("beta_fast", 0.0) or 32.0,
        beta_slow=rope.number("beta_slow", 0.0) or 1.0,
        original_max_seq_len=original,
        attention_factor=shortest_float32(rope.number("attention_factor", usual)),
        truncate=rope.flag("truncate", True),
    )


def yarn_magnitude(factor: float, scale: float) -> float:
    """By how much cosine and sine grow, so that attention stays as sharp as it was (arXiv:2309.00071, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _original(keys: Keys, rope: Keys, max_positions: int) -> int:
    """The context that is stretched. Some write it beside the table, which then counts."""
    return keys.whole(_ORIGINAL, rope.whole(_ORIGINAL, max_positions))
