"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864): its numbers, and the table of its angles."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.model.limits import LARGEST_NUMBER, MOST_POSITIONS


class RopeStyle(enum.StrEnum):
    """Which two elements of a head rotate together: (2i, 2i+1) or, with n that rotate, (i, i + n/2)."""

    ADJACENT = "adjacent"
    HALVES = "halves"


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
class FactorScaling:
    """The frequency of each pair is divided by its own of `factors` (LongRoPE, Ding et al. 2024, arXiv:2402.13753).
    Cosine and sine are multiplied by `attention_factor`."""

    factors: tuple[float, ...]
    attention_factor: float


Scaling: TypeAlias = RopeScaling | YarnScaling | FactorScaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """`n_rotated`: elements of each head that rotate, the first of them; None: all of them."""

    theta: float
    style: RopeStyle
    scaling: Scaling | None = None
    n_rotated: int | None = None

    def fault(self, head_dim: int) -> str | None:
        """What is impossible in it, as the end of a sentence, or None."""
        if not 1 <= self.theta < LARGEST_NUMBER:
            return f"rope_theta is {self.theta}, which cannot be (1 or more)"
        if self.n_rotated is not None and not (0 < self.n_rotated <= head_dim and self.n_rotated % 2 == 0):
            return (
                f"rope turns {self.n_rotated} of {head_dim} elements, which cannot be (an even part of them)"
            )
        if isinstance(self.scaling, FactorScaling):
            return _fault_in_factors(self.scaling, (self.n_rotated or head_dim) // 2)
        return _fault_in_scaling(self.scaling, self.theta)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Rope:
        """The inverse of dataclasses.asdict. Raises KeyError, TypeError or ValueError on anything else."""
        scaling = values["scaling"]
        if scaling is not None:
            scaling = _scaling_from_json(scaling)
        return cls(**values | {"style": RopeStyle(values["style"]), "scaling": scaling})


def _scaling_from_json(values: dict[str, Any]) -> Scaling:
    if "factors" in values:
        return FactorScaling(**values | {"factors": tuple(values["factors"])})
    return YarnScaling(**values) if "attention_factor" in values else RopeScaling(**values)


class Angles(NamedTuple):
    """What queries and keys are multiplied with: the rotation of a rope, or none, in heads of `head_dim`, and a factor
    that makes both larger."""

    rope: Rope | None
    head_dim: int
    factor: float = 1.0


def rope_table(of: Angles, n_positions: int) -> NDArray[np.float32]:
    """[n_positions, E/2, 2] float32: cosine and sine of position x frequency for each pair; 1 and 0 for those that do
    not rotate, which without a rope is all of them; all times the factor."""
    rope, head_dim, factor = of
    n_rotated = 0 if rope is None else rope.n_rotated or head_dim
    frequencies, magnitude = np.empty(0), factor
    if rope is not None:
        frequencies = rope.theta ** -(np.arange(0, n_rotated, 2, dtype=np.float64) / n_rotated)
        if isinstance(rope.scaling, YarnScaling):
            frequencies = _yarn(frequencies, rope.scaling, rope.theta)
            magnitude = factor * rope.scaling.attention_factor
        elif isinstance(rope.scaling, FactorScaling):
            frequencies = frequencies / np.array(rope.scaling.factors)
            magnitude = factor * rope.scaling.attention_factor
        elif rope.scaling is not None:
            frequencies = _llama3(frequencies, rope.scaling)
    table = np.empty((n_positions, head_dim // 2, 2), np.float32)
    n_pairs = n_rotated // 2
    table[:, n_pairs:] = (factor, 0)
    for first in range(0, n_positions, 4096):  # in pieces: the float64 angles of a long context are large
        positions = np.arange(first, min(first + 4096, n_positions))
        angles = np.outer(positions, frequencies)
        table[first : first + len(positions), :n_pairs, 0] = magnitude * np.cos(angles)
        table[first : first + len(positions), :n_pairs, 1] = magnitude * np.sin(angles)
    return table


def _llama3(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.

    Source: the `llama3` rope type of Hugging Face's config.json, as Meta published it with Llama 3.1.
    """
    wavelengths = 2 * np.pi / frequencies
    turns = scaling.original_max_seq_len / wavelengths
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return np.asarray(blend * frequencies + (1 - blend) * frequencies / scaling.factor)


def _yarn(frequencies: NDArray[np.float64], scaling: YarnScaling, theta: float) -> NDArray[np.float64]:
    """YaRN: a straight ramp over the pairs, from those that are kept to those that are slowed by `factor`.

    Source: arXiv:2309.00071, section 3.2, with the borders of the `yarn` rope type of Hugging Face's config.json: of
    a head's elements, not of its pairs, which is why they end at E - 1.
    """
    n_pairs = len(frequencies)

    def pair_that_turns(n_times: float) -> float:
        wavelength = scaling.original_max_seq_len / n_times
        return n_pairs * math.log(wavelength / (2 * math.pi)) / math.log(theta)

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * n_pairs - 1)
    if first == last:
        last += 0.001  # a step instead of a ramp
    slowed = np.clip((np.arange(n_pairs) - first) / (last - first), 0.0, 1.0)
    return np.asarray((1 - slowed) * frequencies + slowed * frequencies / scaling.factor)


def _fault_in_scaling(scaling: RopeScaling | YarnScaling | None, theta: float) -> str | None:
    if scaling is None:
        return None
    if not 0 < scaling.factor < LARGEST_NUMBER:
        return f"the rope scaling factor is {scaling.factor}, which cannot be (above 0)"
    if not 1 <= scaling.original_max_seq_len <= MOST_POSITIONS:
        return (
            f"rope scaling stretches a context of {scaling.original_max_seq_len}, which cannot be (1 or more)"
        )
    if isinstance(scaling, YarnScaling):
        return _fault_in_yarn(scaling, theta)
    if not 0 < scaling.low_freq_factor < scaling.high_freq_factor < LARGEST_NUMBER:
        return (
            f"rope scaling needs 0 < low_freq_factor < high_freq_factor, not {scaling.low_freq_factor} "
            f"and {scaling.high_freq_factor}"
        )
    return None


def _fault_in_factors(scaling: FactorScaling, n_pairs: int) -> str | None:
    if len(scaling.factors) != n_pairs:
        return f"rope scaling has {len(scaling.factors)} factors for {n_pairs} pairs"
    if not all(1e-10 < number < LARGEST_NUMBER for number in (*scaling.factors, scaling.attention_factor)):
        return "a factor of rope scaling cannot be (above 0)"
    return None


def _fault_in_yarn(scaling: YarnScaling, theta: float) -> str | None:
    if not 0 < scaling.beta_slow <= scaling.beta_fast < LARGEST_NUMBER:
        return f"YaRN needs 0 < beta_slow <= beta_fast, not {scaling.beta_slow} and {scaling.beta_fast}"
    if not 0 < scaling.attention_factor < LARGEST_NUMBER:
        return f"YaRN's attention_factor is {scaling.attention_factor}, which cannot be (above 0)"
    if theta <= 1:
        return f"rope_theta is {theta}, which cannot be with YaRN (above 1)"
    return None
