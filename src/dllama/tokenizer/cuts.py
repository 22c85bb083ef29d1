"""Every way to cut pieces in two that are pieces themselves, for all pieces of a large vocabulary at once.

A vocabulary of 262 144 pieces has 1.2 million cuts. Looked up one by one in Python they take twice as long as here,
where each part is found by a hash that follows from sums: of c[k] x B^k over its characters, moved to B^0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BASE = 0x9E3779B97F4A7C15  # any odd number has an inverse modulo 2^64
_SPREAD = 0xD6E8FEB86659FD93

_Hashes = NDArray[np.uint64]
_Places = NDArray[np.int64]


def cuts(pieces: Sequence[str], n_cut: int) -> list[tuple[str, str]]:
    """The two parts of each cut of the first `n_cut` of `pieces` (all different) whose parts are both among them all.

    In the order of the pieces, and those of one piece from the shortest first part on.
    """
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    text = _Text("".join(pieces))
    table = _Table(text.hashes(starts, ends))
    within = np.ones(text.n + 1, dtype=bool)
    within[starts] = within[text.n] = False
    n_characters = int(ends[n_cut - 1]) if n_cut else 0
    at = np.flatnonzero(within[:n_characters])
    whole = np.repeat(np.arange(n_cut), np.maximum(lengths[:n_cut] - 1, 0))
    left = table.find(text.hashes(starts[whole], at))
    is_first = left >= 0
    right = table.find(text.hashes(at[is_first], ends[whole[is_first]]))
    is_second = right >= 0
    places = (left[is_first][is_second], right[is_second], whole[is_first][is_second])
    first, second, both = (map(pieces.__getitem__, places_of.tolist()) for places_of in places)
    return [
        (one, other) for one, other, piece in zip(first, second, both, strict=True) if one + other == piece
    ]


class _Text:
    """Hashes of parts of a text; equal parts have equal ones, and others hardly ever."""

    def __init__(self, text: str) -> None:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        codes = (codes + np.uint64(1)) * np.uint64(_SPREAD)
        codes ^= codes >> np.uint64(32)
        self.n = len(codes)
        self._sums = np.zeros(self.n + 1, np.uint64)
        np.cumsum(codes * _powers(_BASE, self.n), out=self._sums[1:])
        self._back = _powers(pow(_BASE, -1, 1 << 64), self.n + 1)

    def hashes(self, starts: _Places, ends: _Places) -> _Hashes:
        parts: _Hashes = (self._sums[ends] - self._sums[starts]) * self._back[starts]
        return parts


class _Table:
    """Places of hashes: in each round those that another one has displaced get slots of their own."""

    def __init__(self, keys: _Hashes) -> None:
        self._keys = keys
        self._rounds: list[tuple[np.uint64, NDArray[np.int32]]] = []
        n_bits = max(10, (4 * len(keys)).bit_length())
        self._shift = np.uint64(64 - n_bits)
        left, factor = np.arange(len(keys), dtype=np.int32), _SPREAD
        while len(left):
            slots = np.zeros(1 << n_bits, np.int32)
            at = self._slots(keys[left], np.uint64(factor))
            slots[at] = left
            self._rounds.append((np.uint64(factor), slots))
            displaced = slots[at] != left
            left = left[displaced & (keys[slots[at]] != keys[left])]
            factor = factor * _BASE % (1 << 64)

    def find(self, keys: _Hashes) -> NDArray[np.int32]:
        """The place of each; -1 for those that are not there."""
        found = np.full(len(keys), -1, np.int32)
        missing = np.arange(len(keys))
        for factor, slots in self._rounds:
            candidates = slots[self._slots(keys[missing], factor)]
            hit = self._keys[candidates] == keys[missing]
            found[missing[hit]] = candidates[hit]
            missing = missing[~hit]
        return found

    def _slots(self, keys: _Hashes, factor: np.uint64) -> _Hashes:
        return (keys * factor) >> self._shift


def _powers(base: int, n: int) -> _Hashes:
    """`base` to the power of 0 to n - 1, modulo 2^64."""
    powers = np.full(n, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)
