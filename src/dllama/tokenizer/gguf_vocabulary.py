"""The tokenizer in the metadata of a GGUF file.

Keys: github.com/ggml-org/ggml, docs/gguf.md. What counts where one is missing: llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from dllama.errors import TokenizerError
from dllama.formats.gguf import Metadata
from dllama.plain_text import LONGEST_NAME, plain_line
from dllama.tokenizer.byte_alphabet import read_bytes
from dllama.tokenizer.character_map import check_character_map
from dllama.tokenizer.gguf_settings import Defaults, find_id, read_gguf_settings
from dllama.tokenizer.gguf_tokens import GgufTokens, TokenType, read_merges, read_scores, read_tokens
from dllama.tokenizer.merges import Merge
from dllama.tokenizer.pipeline import WORD_START, Parsed, PieceStyle
from dllama.tokenizer.split_rules import BY_NAME, DEFAULT, SplitRule
from dllama.tokenizer.vocabulary import (
    Vocabulary,
    byte_level_pipeline,
    sentencepiece_pipeline,
    unigram_pipeline,
)

_log = logging.getLogger(__name__)

_WITH_SPACES_AS_PIECES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe")
"""Merges as of a byte-level vocabulary, pieces as SentencePiece writes them."""

_NEED_NO_MERGES = ("kimi-k2",)
"""Made for tiktoken: their files may have no merges, since they follow from the tokens."""

_WAY_OUT = "give the model's tokenizer.json as the tokenizer instead"


def parse_gguf_tokenizer(metadata: Metadata) -> Parsed:
    """Raises TokenizerError where there is no tokenizer, one of an unknown kind or a damaged one; ModelFileError where
    values are missing or of another kind."""
    kind = metadata.find("tokenizer.ggml.model", str)
    if kind is None:
        raise TokenizerError(f"has no tokenizer in it; {_WAY_OUT}")
    if kind not in _PARSERS:
        raise TokenizerError(
            f"its tokenizer is of the kind {plain_line(repr(kind), LONGEST_NAME)}, and known are"
            f" {', '.join(_PARSERS)}; {_WAY_OUT}"
        )
    return _PARSERS[kind](metadata, read_tokens(metadata))


def _parse_byte_level(metadata: Metadata, tokens: GgufTokens) -> Parsed:
    name = metadata.find("tokenizer.ggml.pre", str)
    if name in _WITH_SPACES_AS_PIECES:
        return _parse_merges_of_pieces(metadata, tokens)
    rule = _split_rule(metadata, name)
    vocabulary = _vocabulary(metadata, tokens, order=sorted(tokens.ids_of(*_MERGING)))
    merges = _sound_merges(metadata, tokens, may_be_missing=name in _NEED_NO_MERGES)
    return Parsed(
        pipeline=byte_level_pipeline(vocabulary, rule, merges),
        tokens=_bytes_of(vocabulary, PieceStyle.BYTE_LEVEL),
        settings=read_gguf_settings(metadata, tokens, Defaults(add_bos=rule.adds_first)),
    )


def _parse_merges_of_pieces(metadata: Metadata, tokens: GgufTokens) -> Parsed:
    vocabulary = _vocabulary(metadata, tokens)
    pipeline = sentencepiece_pipeline(
        vocabulary,
        space_before_text=_space_before_text(metadata, False),
        merges=_sound_merges(metadata, tokens),
    )
    return Parsed(
        pipeline=pipeline,
        tokens=_bytes_of(vocabulary, PieceStyle.SENTENCEPIECE),
        settings=read_gguf_settings(metadata, tokens, Defaults(add_bos=True)),
    )


def _parse_sentencepiece(metadata: Metadata, tokens: GgufTokens) -> Parsed:
    scores = read_scores(metadata, len(tokens.pieces))
    vocabulary = _vocabulary(metadata, tokens, order=_best_first(tokens, scores))
    pipeline = sentencepiece_pipeline(
        vocabulary,
        space_before_text=_space_before_text(metadata, True),
        squeezes_spaces=_squeezes_spaces(metadata),
    )
    return Parsed(
        pipeline=pipeline,
        tokens=_bytes_of(vocabulary, PieceStyle.SENTENCEPIECE),
        settings=read_gguf_settings(metadata, tokens, Defaults(bos_id=1, eos_id=2, add_bos=True)),
    )


def _parse_unigram(metadata: Metadata, tokens: GgufTokens) -> Parsed:
    """Tokens that are never found in text get a score that no text prefers."""
    scores = read_scores(metadata, len(tokens.pieces))
    in_text = np.isin(tokens.types, [*_MERGING, TokenType.USER_DEFINED])
    if not in_text.any():
        raise TokenizerError("none of its tokens is text; convert the model again")
    scores[~in_text] = scores[in_text].min() - 1000
    found = metadata.find("tokenizer.ggml.precompiled_charsmap", np.ndarray)
    character_map = b"" if found is None else found.tobytes()
    if character_map:
        check_character_map(character_map)
    vocabulary = _vocabulary(metadata, tokens)
    if vocabulary.unknown is None:
        raise TokenizerError(
            "it has no token for what it does not know (unknown_token_id); convert the model again"
        )
    pipeline = unigram_pipeline(
        vocabulary,
        scores.tolist(),
        space_before_text=_space_before_text(metadata, False),
        squeezes_spaces=_squeezes_spaces(metadata),
        character_map=character_map,
    )
    return Parsed(
        pipeline=pipeline,
        tokens=_bytes_of(vocabulary, PieceStyle.SENTENCEPIECE),
        settings=read_gguf_settings(metadata, tokens, Defaults(eos_id=1, add_eos=True)),
    )


_Parser = Callable[[Metadata, GgufTokens], Parsed]

_PARSERS: Mapping[str, _Parser] = MappingProxyType(
    {
        "gpt2": _parse_byte_level,
        "llama": _parse_sentencepiece,
        "t5": _parse_unigram,
        "gemma4": _parse_merges_of_pieces,
    }
)

_MERGING = (TokenType.NORMAL, TokenType.UNDEFINED)


def _split_rule(metadata: Metadata, name: str | None) -> SplitRule:
    if name is None:
        _log.warning(
            "%s: does not say how its tokenizer cuts text (tokenizer.ggml.pre), as files of before May 2024: the model"
            " may do worse than it could; get a newer file",
            metadata.path,
        )
        return DEFAULT
    if name not in BY_NAME:
        raise TokenizerError(
            f"its tokenizer cuts text in a way that is not known, {plain_line(repr(name), LONGEST_NAME)}"
            f" (tokenizer.ggml.pre); {_WAY_OUT}"
        )
    return BY_NAME[name]


def _vocabulary(metadata: Metadata, tokens: GgufTokens, order: Sequence[int] = ()) -> Vocabulary:
    special = tokens.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
    whole = tokens.ids_of(TokenType.USER_DEFINED)
    unknown = find_id(metadata, "unknown", tokens)
    return Vocabulary(
        pieces=tokens.pieces,
        order=order,
        special=special,
        whole=whole,
        byte_pieces=tokens.ids_of(TokenType.BYTE),
        unknown=min(tokens.ids_of(TokenType.UNKNOWN), default=None) if unknown is None else unknown,
        takes_space=_takers_of_space(metadata, tokens, special | whole),
    )


def _takers_of_space(metadata: Metadata, tokens: GgufTokens, named: frozenset[int]) -> frozenset[int]:
    """Those of the `named` tokens to which the white space after them belongs. The tokenizer.json of Phi 3 says it; a
    GGUF file cannot."""
    if metadata.find("general.architecture", str) != "phi3":
        return frozenset()
    return frozenset(i for i in named if tokens.pieces[i] not in ("<unk>", "<s>", "<|endoftext|>"))


def _best_first(tokens: GgufTokens, scores: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[int]:
    """What merges. User-defined pieces go first, whatever their scores are: SentencePiece finds the longest of them
    before anything merges (runs of spaces in Gemma's vocabulary)."""
    in_order = np.argsort(-scores, kind="stable")
    normal = in_order[np.isin(tokens.types[in_order], _MERGING)].tolist()
    user_defined = sorted(tokens.ids_of(TokenType.USER_DEFINED), key=lambda i: (-len(tokens.pieces[i]), i))
    return [*user_defined, *normal]


def _sound_merges(
    metadata: Metadata, tokens: GgufTokens, *, may_be_missing: bool = False
) -> Sequence[Merge] | None:
    """Those that make a token out of two. Raises TokenizerError where there are none at all."""
    found = read_merges(metadata, tokens.pieces)
    if found is None:
        if may_be_missing:
            return None
        raise TokenizerError(f"it has no tokenizer.ggml.merges; {_WAY_OUT}")
    merges, n_others = found
    if n_others:
        _log.warning(
            "%s: %d of %d merges are of tokens that it does not have: they are left out",
            metadata.path,
            n_others,
            len(merges) + n_others,
        )
    return merges


def _bytes_of(vocabulary: Vocabulary, style: PieceStyle) -> list[bytes]:
    """By id; a special token's name, and in a byte-level vocabulary that of a whole one."""
    pieces, names = vocabulary.pieces, vocabulary.special
    if style is PieceStyle.BYTE_LEVEL:
        tokens = [read_bytes(piece) for piece in pieces]
        names |= vocabulary.whole
    else:
        tokens = [piece.replace(WORD_START, " ").encode() for piece in pieces]
        for token_id in vocabulary.byte_pieces:
            tokens[token_id] = style.to_bytes(pieces[token_id])
    for token_id in names:
        tokens[token_id] = pieces[token_id].encode()
    return tokens


def _space_before_text(metadata: Metadata, default: bool) -> bool:
    found = metadata.find("tokenizer.ggml.add_space_prefix", bool)
    return default if found is None else found


def _squeezes_spaces(metadata: Metadata) -> bool:
    return metadata.find("tokenizer.ggml.remove_extra_whitespaces", bool) or False
