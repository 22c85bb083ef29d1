"""The merges of a byte-pair encoding, recovered from its vocabulary.

A vocabulary file of tiktoken or SentencePiece has no list of merges: it is implied by the tokens and their
order. Two rules are in use, and they give different ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np

from dllama._native import piece_cuts

Merge = tuple[str, str]

_Made = tuple[int, str, str]
"""The merge that made a piece: its rank, left and right."""

_NEVER: _Made = (-1, "", "")


class Pairs(Sequence[Merge]):
    """Pairs of `pieces` by their places, made as they are asked for: the library copies them at once, and a list of
    half a million is looked through for garbage for longer than it takes to make."""

    def __init__(self, pieces: Sequence[str], left: memoryview, right: memoryview) -> None:
        """`left` and `right` are int32."""
        self._pieces, self._left, self._right = pieces, left, right

    def __len__(self) -> int:
        return len(self._left)

    @overload
    def __getitem__(self, index: int) -> Merge: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Merge]: ...
    def __getitem__(self, index: int | slice) -> Merge | Sequence[Merge]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._pieces[self._left[index]], self._pieces[self._right[index]]

    def __iter__(self) -> Iterator[Merge]:
        piece = self._pieces.__getitem__
        return zip(map(piece, self._left), map(piece, self._right), strict=True)


def every_merge(pieces: Sequence[str], symbols: Iterable[str] = ()) -> Sequence[Merge]:
    """All pairs that make a piece, the best piece first: the rule of tiktoken and of SentencePiece.

    `pieces` are in the order in which they merge; `symbols` exist too and are never made. Any two neighbours
    that together are a piece may merge, whatever they were made of.
    """
    made = dict.fromkeys(pieces)
    known = [*made, *(symbol for symbol in dict.fromkeys(symbols) if symbol not in made)]
    encoded = [piece.encode("utf-8", "surrogatepass") for piece in known]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    left, right = piece_cuts(b"".join(encoded), ends, len(made))
    return Pairs(known, left.data, right.data)


def trained_merges(pieces: Sequence[str], symbols: Iterable[str] = ()) -> list[Merge]:
    """The one pair that made each piece in training: the rule of a merges.txt (GPT-2, Qwen).

    `pieces` are in the order in which they were made. A piece was made of the two parts that the merges before
    it leave of its characters. A piece that they leave in more parts cannot be made, and has no merge.
    """
    made: dict[str, _Made] = dict.fromkeys(symbols, _NEVER)
    ranks: dict[Merge, int] = {}
    for piece in pieces:
        for cut in range(len(piece) - 1, 0, -1):
            left, right = piece[:cut], piece[cut:]
            if left in made and right in made and _stay_apart(left, right, made, ranks):
                made[piece] = (len(ranks), left, right)
                ranks[left, right] = len(ranks)
                break
    return list(ranks)


def _stay_apart(left: str, right: str, made: Mapping[str, _Made], ranks: Mapping[Merge, int]) -> bool:
    """Whether both pieces come about when they stand side by side, so that nothing merges across the border.

    Goes back in time from the two whole pieces, and looks at the neighbours at the border as they were then:
    they must not have merged before one of them was merged into what followed. Of two equal merges the one
    further to the left comes first.
    """
    until = len(ranks)
    while ranks.get((left, right), until) >= until:
        left_rank, _, end_of_left = made[left]
        right_rank, start_of_right, _ = made[right]
        if left_rank > right_rank:
            left, until = end_of_left, left_rank
        elif right_rank >= 0:
            right, until = start_of_right, right_rank + 1
        else:
            return True
    return False
