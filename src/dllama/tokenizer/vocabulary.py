"""Pipelines of the `tokenizers` library, built from a vocabulary and the rule it was made for."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from dllama.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from dllama.tokenizer.merges import every_merge, trained_merges
from dllama.tokenizer.pipeline import WORD_START


class SplitRule(enum.Enum):
    """Where a byte-level vocabulary cuts text before it merges: the models' own patterns, one after the other."""

    LLAMA_3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
    QWEN = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
    TEKKEN = (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
    STARCODER = (
        r"\p{N}",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    )
    NONE = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """`pieces[id]` as text: in the byte alphabet, or SentencePiece's. What is in none of the sets merges.

    `special` are control tokens, `whole` are found in text before anything merges (`<think>`), `byte_pieces`
    stand for bytes that no piece spells. `order` are the ids that merge, the best first.
    """

    pieces: Sequence[str]
    order: Sequence[int]
    special: frozenset[int]
    whole: frozenset[int] = frozenset()
    byte_pieces: frozenset[int] = frozenset()

    @property
    def ids(self) -> dict[str, int]:
        """Piece to id. Of two equal pieces the first; special and whole tokens go before others."""
        ids = dict(zip(reversed(self.pieces), reversed(range(len(self.pieces))), strict=True))
        return ids | {self.pieces[i]: i for i in sorted(self.special | self.whole, reverse=True)}

    @property
    def merging(self) -> list[str]:
        return [self.pieces[i] for i in self.order]


def byte_level_pipeline(vocabulary: Vocabulary, rule: SplitRule) -> tokenizers.Tokenizer:
    """Ids as tiktoken makes them (Llama 3, Tekken), or as a merges.txt does (Qwen, StarCoder, SmolLM).

    SplitRule.NONE is Distributed Llama's own way with a vocabulary that nobody recognises: the whole text is
    one word, from bytes upward the best score merges.
    """
    if rule in (SplitRule.QWEN, SplitRule.STARCODER):
        merges = trained_merges([piece for piece in vocabulary.merging if len(piece) > 1], CHARACTER_OF_BYTE)
    else:
        merges = every_merge(vocabulary.merging)
    pipeline = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary.ids, merges=merges, ignore_merges=rule in (SplitRule.LLAMA_3, SplitRule.TEKKEN)
        )
    )
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = [pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated") for pattern in rule.value]
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    if rule is SplitRule.QWEN:
        pipeline.normalizer = normalizers.NFC()
    pipeline.decoder = decoders.ByteLevel()
    return _with_added_tokens(pipeline, vocabulary)


def sentencepiece_pipeline(vocabulary: Vocabulary, *, space_before_text: bool) -> tokenizers.Tokenizer:
    """Ids as SentencePiece's BPE makes them: characters upward, bytes for those that have no piece."""
    unknown = next((vocabulary.pieces[i] for i in sorted(vocabulary.special)), None)
    pipeline = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary.ids,
            merges=every_merge(vocabulary.merging),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=bool(vocabulary.byte_pieces),
        )
    )
    spaces = [normalizers.Replace(" ", WORD_START)]
    prefix = [normalizers.Prepend(WORD_START)] if space_before_text else []
    pipeline.normalizer = normalizers.Sequence([*prefix, *spaces])
    pipeline.decoder = decoders.Sequence(
        [
            decoders.Replace(WORD_START, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if space_before_text else []),
        ]
    )
    return _with_added_tokens(pipeline, vocabulary)


def _with_added_tokens(pipeline: tokenizers.Tokenizer, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    for ids, special in ((vocabulary.special, True), (vocabulary.whole, False)):
        pipeline.add_tokens(
            [
                tokenizers.AddedToken(vocabulary.pieces[token_id], special=special, normalized=False)
                for token_id in sorted(ids)
            ]
        )
    return pipeline
