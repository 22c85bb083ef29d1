"""Pipelines of the `tokenizers` library, built from a vocabulary and the rule it was made for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from dllama.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from dllama.tokenizer.merges import Merge, every_merge, trained_merges
from dllama.tokenizer.pipeline import WORD_START
from dllama.tokenizer.split_rules import QWEN, STARCODER, SplitRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """`pieces[id]` as text: in the byte alphabet, or SentencePiece's. What is in none of the sets merges.

    `special` are control tokens, `whole` are found in text before anything merges (`<think>`), `byte_pieces`
    stand for bytes that no piece spells, `unknown` for anything else. `order` are the ids that merge, the best first.
    The tokens `takes_space` take the white space after them as theirs.
    """

    pieces: Sequence[str]
    order: Sequence[int]
    special: frozenset[int]
    whole: frozenset[int] = frozenset()
    byte_pieces: frozenset[int] = frozenset()
    unknown: int | None = None
    takes_space: frozenset[int] = frozenset()

    @property
    def ids(self) -> dict[str, int]:
        """Piece to id. Of two equal pieces the first; special and whole tokens go before others."""
        ids = dict(zip(self.pieces, range(len(self.pieces)), strict=True))
        if len(ids) == len(self.pieces):
            return ids
        ids = dict(zip(reversed(self.pieces), reversed(range(len(self.pieces))), strict=True))
        return ids | {self.pieces[i]: i for i in sorted(self.special | self.whole, reverse=True)}

    @property
    def merging(self) -> list[str]:
        return [self.pieces[i] for i in self.order]


def byte_level_pipeline(
    vocabulary: Vocabulary, rule: SplitRule, merges: Sequence[Merge] | None = None
) -> tokenizers.Tokenizer:
    """Ids as tiktoken makes them (Llama 3, Tekken), or as a merges.txt does (Qwen, StarCoder, SmolLM).

    Without `merges` they follow from the vocabulary. A rule without patterns is Distributed Llama's own way with a
    vocabulary that nobody recognises: the whole text is one word, from bytes upward the best score merges.
    """
    if merges is None and rule in (QWEN, STARCODER):
        merges = trained_merges([piece for piece in vocabulary.merging if len(piece) > 1], CHARACTER_OF_BYTE)
    elif merges is None:
        merges = every_merge(vocabulary.merging)
    pipeline = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary.ids, merges=merges, ignore_merges=rule.keeps_words)
    )
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated") for pattern in rule.patterns
    ]
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    if rule.composes:
        pipeline.normalizer = normalizers.NFC()
    pipeline.decoder = decoders.ByteLevel()
    return _with_added_tokens(pipeline, vocabulary)


def sentencepiece_pipeline(
    vocabulary: Vocabulary,
    *,
    space_before_text: bool,
    squeezes_spaces: bool = False,
    merges: Sequence[Merge] | None = None,
) -> tokenizers.Tokenizer:
    """Ids as SentencePiece's BPE makes them: characters upward, bytes for those that have no piece.

    Without `merges` they follow from the vocabulary. With `squeezes_spaces` text loses spaces at both ends, and those
    that follow another.
    """
    model = models.BPE(
        vocab=vocabulary.ids,
        merges=every_merge(vocabulary.merging) if merges is None else merges,
        unk_token=None if vocabulary.unknown is None else vocabulary.pieces[vocabulary.unknown],
        fuse_unk=True,
        byte_fallback=bool(vocabulary.byte_pieces),
    )
    pipeline = _with_spaces_as_pieces(model, space_before_text, squeezes_spaces)
    return _with_added_tokens(pipeline, vocabulary)


def unigram_pipeline(
    vocabulary: Vocabulary,
    scores: Sequence[float],
    *,
    space_before_text: bool,
    squeezes_spaces: bool,
    character_map: bytes,
) -> tokenizers.Tokenizer:
    """Ids as SentencePiece's unigram model makes them: the likeliest pieces. `character_map` is its normalisation, as
    the model has it (precompiled); it may be empty.

    The library would take the names of special tokens and bytes in text for these pieces; text is cut within them.
    """
    model = models.Unigram(
        vocab=[*zip(vocabulary.pieces, scores, strict=True)],
        unk_id=vocabulary.unknown,
        byte_fallback=bool(vocabulary.byte_pieces),
    )
    pipeline = _with_spaces_as_pieces(model, space_before_text, squeezes_spaces, character_map)
    pieces = (vocabulary.pieces[i] for i in vocabulary.special | vocabulary.byte_pieces)
    names = sorted(piece for piece in pieces if len(piece) > 1)
    if names:
        within = "|".join(f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in names)
        pipeline.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(within), behavior="isolated")
    return _with_added_tokens(pipeline, vocabulary)


def _with_spaces_as_pieces(
    model: models.Model, space_before_text: bool, squeezes_spaces: bool, character_map: bytes = b""
) -> tokenizers.Tokenizer:
    pipeline = tokenizers.Tokenizer(model)
    pipeline.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(character_map)] if character_map else []),
            *([normalizers.Replace(tokenizers.Regex(r"\A +| +\z"), "")] if squeezes_spaces else []),
            *([normalizers.Replace(tokenizers.Regex(" {2,}"), " ")] if squeezes_spaces else []),
            *([normalizers.Prepend(WORD_START)] if space_before_text else []),
            normalizers.Replace(" ", WORD_START),
        ]
    )
    pipeline.decoder = decoders.Sequence(
        [
            decoders.Replace(WORD_START, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if space_before_text else []),
        ]
    )
    return pipeline


def _with_added_tokens(pipeline: tokenizers.Tokenizer, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    for ids, special in ((vocabulary.special, True), (vocabulary.whole, False)):
        pipeline.add_tokens(
            [
                tokenizers.AddedToken(
                    vocabulary.pieces[token_id],
                    special=special,
                    normalized=False,
                    rstrip=token_id in vocabulary.takes_space,
                )
                for token_id in sorted(ids)
            ]
        )
    return pipeline
