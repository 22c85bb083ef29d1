"""Rotary position embedding: the table of angles (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dllama.families import ModelConfig, RopeScaling, YarnScaling


def rope_table(config: ModelConfig, n_positions: int) -> NDArray[np.float32]:
    """[n_positions, E/2, 2] float32: cosine and sine of position x frequency for each rotated pair."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    magnitude = 1.0
    if isinstance(config.rope_scaling, YarnScaling):
        frequencies = _yarn(frequencies, config.rope_scaling, config.rope_theta)
        magnitude = config.rope_scaling.attention_factor
    elif config.rope_scaling is not None:
        frequencies = _llama3(frequencies, config.rope_scaling)
    table = np.empty((n_positions, len(frequencies), 2), np.float32)
    for first in range(0, n_positions, 4096):  # in pieces: the float64 angles of a long context are large
        positions = np.arange(first, min(first + 4096, n_positions))
        angles = np.outer(positions, frequencies)
        table[first : first + len(positions), :, 0] = magnitude * np.cos(angles)
        table[first : first + len(positions), :, 1] = magnitude * np.sin(angles)
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
