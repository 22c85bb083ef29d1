"""The merges of a byte-pair encoding, recovered from its vocabulary.

A vocabulary file of tiktoken or SentencePiece has no list of merges: it is implied by the tokens and their
order. Two rules are in use, and they give different ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Merge = tuple[str, str]


def every_merge(pieces: Sequence[str], symbols: Iterable[str] = ()) -> list[Merge]:
    """All pairs that make a piece, the best piece first: the rule of tiktoken and of SentencePiece.

    `pieces` are in the order in which they merge; `symbols` exist too and are never made. Any two neighbours
    that together are a piece may merge, whatever they were made of.
    """
    known = {*pieces, *symbols}
    return [
        (left, right)
        for piece in pieces
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in known and (right := piece[cut:]) in known
    ]


def trained_merges(pieces: Sequence[str], symbols: Iterable[str] = ()) -> list[Merge]:
    """The one pair that made each piece in training: the rule of a merges.txt (GPT-2, Qwen).

    `pieces` are in the order in which they were made. A piece was made of the two parts that the merges before
    it leave of its characters. A piece that they leave in more parts cannot be made, and has no merge.
    """
    known = set(symbols)
    ranks: dict[Merge, int] = {}
    for piece in pieces:
        cuts = [cut for cut in range(1, len(piece)) if piece[:cut] in known and piece[cut:] in known]
        parts = [piece[: cuts[0]], piece[cuts[0] :]] if len(cuts) == 1 else _merge_down(piece, ranks)
        known.add(piece)
        if len(parts) == 2:
            ranks[parts[0], parts[1]] = len(ranks)
    return list(ranks)


def _merge_down(piece: str, ranks: Mapping[Merge, int]) -> list[str]:
    """The parts of `piece` that are left when nothing in it merges any more; two at least."""
    parts = list(piece)
    never = len(ranks)
    while len(parts) > 2:
        best, at = never, -1
        for left in range(len(parts) - 1):
            rank = ranks.get((parts[left], parts[left + 1]), never)
            if rank < best:
                best, at = rank, left
        if best == never:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
