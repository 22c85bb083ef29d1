"""Gated delta nets on the reference device."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dllama.kernels import delta_oracle
from dllama.kernels.device import Buffer
from dllama.kernels.host_memory import array_of

Float32 = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class StatePlaces:
    """Where rows stand in their sequences, and where the states of these are; what the arrays say may change."""

    positions: Ints
    sequence: Ints
    page_table: Ints
    page_size: int

    @classmethod
    def of(
        cls, positions: Buffer, sequence: Buffer, page_table: Buffer, page_size: int, n_rows: int
    ) -> StatePlaces:
        arrays = {"positions": positions, "sequence": sequence, "page_table": page_table}
        of_rows, of_sequence, table = (array_of(operand, name) for name, operand in arrays.items())
        if any(array.dtype != np.int32 for array in (of_rows, of_sequence, table)):
            raise TypeError("positions, sequence and page_table must be int32")
        if not 0 <= n_rows <= min(len(of_rows), len(of_sequence)):
            raise ValueError(f"n_rows {n_rows} is more than positions or sequence have")
        return cls(of_rows[:n_rows], of_sequence[:n_rows], table, page_size)

    def runs(self, state: Float32) -> Iterator[tuple[slice, Float32]]:
        """The rows of each sequence in each page, with their part of `state` [pages, ...], in which is the state before
        them. Raises ValueError for what leads outside."""
        if not len(self.sequence):
            return
        pages = self.positions // self.page_size
        borders = np.flatnonzero(np.diff(self.sequence) | np.diff(pages)) + 1
        for start, stop in itertools.pairwise([0, *borders.tolist(), len(self.sequence)]):
            first = int(self.positions[start])
            if (self.positions[start:stop] != np.arange(first, first + stop - start)).any():
                raise ValueError("positions of a sequence must follow each other")
            own = self._page(int(self.sequence[start]), first, len(state))
            if first == 0:
                state[own] = 0
            elif first % self.page_size == 0:
                state[own] = state[self._page(int(self.sequence[start]), first - 1, len(state))]
            yield slice(start, stop), state[own]

    def _page(self, sequence: int, position: int, n_pages: int) -> int:
        """Of the state behind that position."""
        if not 0 <= sequence < len(self.page_table):
            raise ValueError("sequence has a number outside page_table")
        if not 0 <= position < self.page_table.shape[1] * self.page_size:
            raise ValueError("positions has a position outside page_table")
        page = int(self.page_table[sequence, position // self.page_size])
        if not 0 <= page < n_pages:
            raise ValueError("page_table has a page outside state")
        return page


def convolve(out: Float32, x: Float32, weights: Float32, state: Float32, places: StatePlaces) -> None:
    """See Device.causal_conv."""
    for rows, before in places.runs(state):
        out[rows], before[:] = delta_oracle.causal_conv(x[rows, : out.shape[1]], weights, before)


@dataclasses.dataclass(frozen=True)
class DeltaOperands:
    """Those of Device.delta_rule: qkv [T, 2 K DK + H DV], beta and alpha [T, H], state [pages, H, DK, DV]."""

    qkv: Float32
    beta: Float32
    alpha: Float32
    log_rate: Float32
    dt_bias: Float32
    state: Float32
    key_heads: NDArray[np.int64]
    """Of each value head."""


def recur(out: Float32, of: DeltaOperands, places: StatePlaces) -> None:
    """See Device.delta_rule."""
    _, n_heads, key_dim, value_dim = of.state.shape
    n_keys = (int(of.key_heads[-1]) + 1) * key_dim
    for rows, state in places.runs(of.state):
        queries, keys, values = np.split(of.qkv[rows], [n_keys, 2 * n_keys], axis=1)
        n_rows = len(values)
        operands = (
            queries.reshape(n_rows, -1, key_dim)[:, of.key_heads],
            keys.reshape(n_rows, -1, key_dim)[:, of.key_heads],
            values.reshape(n_rows, n_heads, value_dim),
            delta_oracle.decay_of(of.alpha[rows], of.log_rate, of.dt_bias),
            delta_oracle.sigmoid(of.beta[rows]),
        )
        for t in range(n_rows):  # each by itself: the state is float32 between rows, whatever shares a step
            q, k, v, decay, strength = (operand[t : t + 1] for operand in operands)
            found, state[:] = delta_oracle.delta_rule(q, k, v, decay, strength, state)
            out[rows][t] = found.reshape(-1)
