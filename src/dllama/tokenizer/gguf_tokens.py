"""The tokens in the metadata of a GGUF file, checked (github.com/ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

import dataclasses
import enum
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.errors import TokenizerError
from dllama.formats.gguf import Metadata, Texts
from dllama.plain_text import LONGEST_NAME, plain_line
from dllama.tokenizer.merges import Pairs
from dllama.tokenizer.pipeline import is_control_name

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class TokenType(enum.IntEnum):
    """Those of SentencePiece, and UNDEFINED."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclasses.dataclass(frozen=True)
class GgufTokens:
    """`pieces` and `types` by id."""

    pieces: Sequence[str]
    types: NDArray[np.integer[Any]]

    def ids_of(self, *types: TokenType) -> frozenset[int]:
        return frozenset(np.flatnonzero(np.isin(self.types, types)).tolist())


def read_tokens(metadata: Metadata) -> GgufTokens:
    """Raises TokenizerError when there are not as many types as tokens, ModelFileError when there are no tokens.

    Files of before there were types get those that the names suggest.
    """
    pieces = metadata.need("tokenizer.ggml.tokens", Texts).as_text()
    key = "tokenizer.ggml.token_type"
    types = metadata.find(key, np.ndarray)
    if types is None:
        types = np.array([_type_by_name(piece) for piece in pieces], dtype=np.int32)
    _check(key, types, len(pieces), "iu")
    return GgufTokens(pieces, types)


def read_scores(metadata: Metadata, n_tokens: int) -> NDArray[np.float64]:
    """By id. Raises TokenizerError when there are not as many as tokens or some are no numbers, ModelFileError when
    there are none."""
    key = "tokenizer.ggml.scores"
    scores = metadata.need(key, np.ndarray)
    _check(key, scores, n_tokens, "iuf")
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise TokenizerError(f"{key} has infinities or what is no number; convert the model again")
    return scores


def read_merges(metadata: Metadata, pieces: Sequence[str]) -> tuple[Pairs, int] | None:
    """Those that make one of `pieces` out of two, the best first, and how many others there are; None when there are no
    merges at all. Raises TokenizerError when one is no pair."""
    texts = metadata.find("tokenizer.ggml.merges", Texts)
    if texts is None:
        return None
    id_of = dict(zip(pieces, range(len(pieces)), strict=True)).get
    left, right = array("i"), array("i")
    for text in texts.as_text():
        cut = text.find(" ", 1)
        if cut < 1 or cut == len(text) - 1:
            raise TokenizerError(
                f"the merge {plain_line(repr(text), LONGEST_NAME)} is no two tokens with a space between them; convert"
                " the model again"
            )
        first, second = text[:cut], text[cut + 1 :]
        of_first, of_second = id_of(first), id_of(second)
        if of_first is not None and of_second is not None and id_of(first + second) is not None:
            left.append(of_first)
            right.append(of_second)
    return Pairs(pieces, memoryview(left), memoryview(right)), len(texts) - len(left)


def is_byte_piece(piece: str) -> bool:
    """Whether it is named as SentencePiece names bytes, `<0x0A>`."""
    return _BYTE_PIECE.fullmatch(piece) is not None


def _type_by_name(piece: str) -> TokenType:
    if is_byte_piece(piece):
        return TokenType.BYTE
    if is_control_name(piece) or piece in ("<s>", "</s>"):
        return TokenType.CONTROL
    return TokenType.UNKNOWN if piece == "<unk>" else TokenType.NORMAL


def _check(key: str, values: NDArray[Any], n_tokens: int, kinds: str) -> None:
    if values.dtype.kind not in kinds:
        raise TokenizerError(f"{key} is a list of {values.dtype}; convert the model again")
    if len(values) != n_tokens:
        raise TokenizerError(
            f"{key} has {len(values)} entries for {n_tokens} tokens; convert the model again"
        )
