"""Rotary position embedding: the table of angles (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dllama.families import ModelConfig, RopeScaling


def rope_table(config: ModelConfig, n_positions: int) -> NDArray[np.float32]:
    """[n_positions, E/2, 2] float32: cosine and sine of position x frequency for each rotated pair."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    if config.rope_scaling is not None:
        frequencies = _scale_frequencies(frequencies, config.rope_scaling)
    table = np.empty((n_positions, len(frequencies), 2), np.float32)
    for first in range(0, n_positions, 4096):  # in pieces: the float64 angles of a long context are large
        positions = np.arange(first, min(first + 4096, n_positions))
        angles = np.outer(positions, frequencies)
        table[first : first + len(positions), :, 0] = np.cos(angles)
        table[first : first + len(positions), :, 1] = np.sin(angles)
    return table


def _scale_frequencies(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.

    Source: the `llama3` rope type of Hugging Face's config.json, as Meta published it with Llama 3.1.
    """
    wavelengths = 2 * np.pi / frequencies
    turns = scaling.original_max_seq_len / wavelengths
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return np.asarray(blend * frequencies + (1 - blend) * frequencies / scaling.factor)
