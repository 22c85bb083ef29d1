"""The real tokenizer of the model, found again from the vocabulary in a `.t` file.

A `.t` file holds tokens and scores, but neither how text is cut before it merges nor which tokens are special.
Both follow from the vocabulary: its bytes tell byte-level from SentencePiece, its special tokens and digits
tell Llama 3 from Qwen from Tekken from StarCoder, and special tokens stand before the first byte or at the end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from dllama.errors import TokenizerError
from dllama.formats.t_file import TFile
from dllama.tokenizer.base import Settings
from dllama.tokenizer.byte_alphabet import BYTE_OF_CHARACTER, write_bytes
from dllama.tokenizer.pipeline import WORD_START, Parsed, is_bracketed_name, is_control_name, tokens_of
from dllama.tokenizer.split_rules import LLAMA_3, NONE, QWEN, STARCODER, TEKKEN, SplitRule
from dllama.tokenizer.vocabulary import Vocabulary, byte_level_pipeline, sentencepiece_pipeline

_PLAIN_TEXT = frozenset(b"\n" + bytes(range(0x20, 0x7F)))
_BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def parse_t_vocabulary(file: TFile) -> Parsed:
    """The tokenizer of a `.t` file. Raises TokenizerError when its vocabulary cannot write plain text."""
    file = dataclasses.replace(file, tokens=_with_named_bytes(file.tokens))
    settings = Settings(
        bos_id=file.bos_id, add_bos=file.add_bos, eos_ids=file.eos_ids, chat_template=file.chat_template
    )
    if _BYTE_PIECES[0].encode() in file.tokens:
        pipeline = sentencepiece_pipeline(_sentencepiece_vocabulary(file), space_before_text=True)
        return Parsed(pipeline=pipeline, tokens=tokens_of(pipeline), settings=settings)
    vocabulary = _byte_level_vocabulary(file)
    pipeline = byte_level_pipeline(vocabulary, recognise_split_rule(file, vocabulary))
    return Parsed(pipeline=pipeline, tokens=file.tokens, settings=settings)


def recognise_split_rule(file: TFile, vocabulary: Vocabulary) -> SplitRule:
    """How the model cuts text, by its special tokens, and by whether digits make tokens together."""
    names = {vocabulary.pieces[token_id] for token_id in vocabulary.special}
    long_numbers = any(len(token) > 1 and token.isdigit() for token in file.tokens)
    if "<|begin_of_text|>" in names:
        return LLAMA_3
    if "<｜begin▁of▁sentence｜>" in names and long_numbers:
        return LLAMA_3  # DeepSeek R1 distilled into Llama 3
    if "[INST]" in names and not long_numbers:
        return TEKKEN
    if not long_numbers and vocabulary.pieces[0] == "<|endoftext|>":
        return STARCODER
    qwen = {"<|im_start|>", "<|endoftext|>", "<｜begin▁of▁sentence｜>"} & names
    first_byte_is_first = len(file.tokens[0]) == 1
    return QWEN if qwen and first_byte_is_first and not long_numbers else NONE


def _byte_level_vocabulary(file: TFile) -> Vocabulary:
    byte_ids = [token_id for token_id, token in enumerate(file.tokens) if len(token) == 1]
    missing = missing_bytes(file.tokens)
    if _PLAIN_TEXT & set(missing):
        raise TokenizerError(
            f"{len(missing)} of the 256 bytes have no token, so that plain text cannot be encoded"
        )
    bracketed = [token_id for token_id, token in enumerate(file.tokens) if token.startswith(b"<")]
    controls = {token_id for token_id in bracketed if is_control_name(_name(file.tokens[token_id]))}
    controls |= {*file.eos_ids, *([] if file.bos_id is None else [file.bos_id])}
    tail = range(_tail_start(sorted(controls), len(file.tokens)), len(file.tokens))
    special = controls | set(range(byte_ids[0]))
    named = special | set(tail)
    pieces = [
        _name(token) if token_id in named else write_bytes(token)
        for token_id, token in enumerate(file.tokens)
    ]
    return Vocabulary(
        pieces=pieces,
        order=_best_first(file.scores, named),
        special=frozenset(special),
        whole=frozenset(named - special),
    )


def missing_bytes(tokens: Iterable[bytes]) -> list[int]:
    """The bytes that no token of a byte-level vocabulary spells. Text leaves them out (SmolLM lacks 21)."""
    return sorted(set(range(256)) - {token[0] for token in tokens if len(token) == 1})


def _with_named_bytes(tokens: Sequence[bytes]) -> Sequence[bytes]:
    """The tokens, with byte pieces of SentencePiece by their names where they are the bytes themselves.

    So Distributed Llama's converter writes a tokenizer.model. All 256 stand in order there, as they do in Tekken's
    vocabulary, but some come again: the letters are pieces of their own.
    """
    all_bytes = [bytes([byte]) for byte in range(256)]
    for start in [token_id for token_id, token in enumerate(tokens) if token == all_bytes[0]]:
        stop = start + len(all_bytes)
        if list(tokens[start:stop]) == all_bytes and any(len(token) == 1 for token in tokens[stop:]):
            return [*tokens[:start], *(piece.encode() for piece in _BYTE_PIECES), *tokens[stop:]]
    return tokens


def _name(token: bytes) -> str:
    return token.decode("utf-8", "replace")


def _tail_start(controls: Sequence[int], vocab_size: int) -> int:
    """Where the tokens end that merge: at the first control token that has mostly control tokens after it."""
    for place, token_id in enumerate(controls):
        if 2 * (len(controls) - place) >= vocab_size - token_id:
            return token_id
    return vocab_size


def _sentencepiece_vocabulary(file: TFile) -> Vocabulary:
    pieces = _sentencepiece_pieces(file.tokens)
    place = {piece: token_id for token_id, piece in reversed(list(enumerate(pieces)))}
    missing = [piece for piece in _BYTE_PIECES if piece not in place]
    if missing:
        raise TokenizerError(f"it lacks the byte token {missing[0]}, so that not every text can be encoded")
    byte_pieces = frozenset(place[piece] for piece in _BYTE_PIECES)
    tail = range(_end_of_merging(pieces, max(byte_pieces) + 1), len(pieces))
    special = set(range(min(byte_pieces)))
    special |= {*file.eos_ids, *([] if file.bos_id is None else [file.bos_id])}
    special |= {token_id for token_id in tail if is_bracketed_name(pieces[token_id])}
    whole = set(tail) - special
    scores = file.scores
    if all(score == -token_id for token_id, score in enumerate(scores)):
        # Made from a tokenizer.json. In SentencePiece's own scores runs of spaces are the last to merge.
        spaces = {token_id for token_id, piece in enumerate(pieces) if not piece.strip(WORD_START)}
        scores = [-math.inf if token_id in spaces else score for token_id, score in enumerate(scores)]
    return Vocabulary(
        pieces=pieces,
        order=_best_first(scores, special | whole | byte_pieces),
        special=frozenset(special),
        whole=frozenset(whole),
        byte_pieces=byte_pieces,
        unknown=min(special, default=None),
    )


def _end_of_merging(pieces: Sequence[str], start: int) -> int:
    """One past the last piece that is a character, or that two others make."""
    known = set(pieces[start:])
    for token_id in reversed(range(start, len(pieces))):
        piece = pieces[token_id]
        if len(piece) == 1 or any(piece[:c] in known and piece[c:] in known for c in range(1, len(piece))):
            return token_id + 1
    return start


def _best_first(scores: Sequence[float], without: set[int] | frozenset[int]) -> list[int]:
    ids = (token_id for token_id in range(len(scores)) if token_id not in without)
    return sorted(ids, key=lambda token_id: -scores[token_id])


def _sentencepiece_pieces(tokens: Sequence[bytes]) -> list[str]:
    """The pieces as SentencePiece writes them, whatever the converter made of them.

    Distributed Llama's converter writes U+2581 as a space when it reads a tokenizer.model. When it reads a
    tokenizer.json it takes the characters for those of the byte alphabet, so that `é` becomes one byte that
    is no UTF-8; then every character of that alphabet has to be turned back.
    """
    try:
        return [token.decode().replace(" ", WORD_START) for token in tokens]
    except UnicodeDecodeError:
        return [_undo_byte_alphabet(token) for token in tokens]


def _undo_byte_alphabet(token: bytes) -> str:
    """Characters outside the alphabet are there as UTF-8, those of the alphabet as the byte they stand for.

    Only a carriage return may be itself or `č`: it is itself where it ends a line of code (`;\\r`).
    """
    text = ""
    while token:
        character = _leading_character(token, before=text)
        text += character or write_bytes(token[:1])
        token = token[len(character.encode()) or 1 :]
    return text


def _leading_character(token: bytes, before: str) -> str:
    """The character outside the byte alphabet that `token` begins with, or nothing."""
    if token[:1] == b"\r" and before and not before[-1].isalpha():
        return "\r"
    for length in (2, 3, 4):
        try:
            character = token[:length].decode()
        except UnicodeDecodeError:
            continue
        if len(character) == 1 and token[0] >= 0x80 and character not in BYTE_OF_CHARACTER:
            return character
    return ""
