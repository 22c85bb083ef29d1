"""A tokenizer becomes the metadata of a GGUF file, as llama.cpp's converters write it.

What is written is read again, and a warning says where ids differ: a GGUF file names the way a byte-level vocabulary
cuts text, and says little of what else a tokenizer.json may do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from dllama.errors import TokenizerError
from dllama.formats.gguf import GgufFile, Metadata, NewValue, as_read
from dllama.formats.gguf.folder import gguf_file
from dllama.formats.plain_files import read_plain_file
from dllama.formats.t_file import LARGEST_BYTES
from dllama.plain_text import LONGEST_NAME, plain_line
from dllama.tokenizer.convert import PROBE
from dllama.tokenizer.gguf_tokens import TokenType, is_byte_piece
from dllama.tokenizer.gguf_vocabulary import parse_gguf_tokenizer
from dllama.tokenizer.load import FileKind, kind_of, load_tokenizer, naming, tokenizer_file
from dllama.tokenizer.pipeline import PieceStyle, PipelineTokenizer
from dllama.tokenizer.sentencepiece_model import parse_sentencepiece_model
from dllama.tokenizer.split_rules import BY_NAME, SplitRule

_log = logging.getLogger(__name__)

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_LAST_TO_MERGE = -1e6
_WAY_OUT = "take a .m and a .t file instead"


def tokenizer_to_gguf(source: Path) -> dict[str, NewValue]:
    """The keys and values that say in a GGUF file what the tokenizer at `source` is: a directory, a tokenizer.json, a
    SentencePiece model, or a GGUF file, whose own are taken.

    Logs a warning where ids will differ. Raises TokenizerError as load_tokenizer does, and where GGUF has no name for
    how it cuts text.
    """
    file = tokenizer_file(source)
    if gguf_file(file) is not None:
        with contextlib.closing(GgufFile(file)) as gguf:
            return {key: value for key, value in gguf.metadata.items() if key.startswith("tokenizer.")}
    content = read_plain_file(file, TokenizerError, LARGEST_BYTES)
    kind = kind_of(content, file)
    original = load_tokenizer(source)
    with naming(file):
        if kind is FileKind.JSON:
            values = _of_json(content, original)
        elif kind is FileKind.SENTENCEPIECE:
            values = _of_sentencepiece(content)
        else:
            raise TokenizerError(f"{kind.value} say too little for a GGUF file; give a tokenizer.json")
        values |= _settings(original)
        _say_what_differs(values, original, file)
    return values


def _of_json(content: bytes, original: PipelineTokenizer) -> dict[str, NewValue]:
    file = json.loads(content)
    model = file["model"]
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"a tokenizer of type {model['type']} is not written as GGUF; {_WAY_OUT}")
    pieces, types = _tokens(file)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    values: dict[str, NewValue]
    if original.style is PieceStyle.BYTE_LEVEL:
        values = {f"{_PREFIX}model": "gpt2", f"{_PREFIX}pre": _split_name(content)}
        return values | _listed(pieces, types) | {f"{_PREFIX}merges": merges}
    unknown = model.get("unk_token")
    for token_id, piece in enumerate(pieces):
        if piece == unknown:
            types[token_id] = TokenType.UNKNOWN
        elif is_byte_piece(piece):
            types[token_id] = TokenType.BYTE
    places = {merge.replace(" ", ""): place for place, merge in reversed([*enumerate(merges)])}
    scores = [-float(places[piece]) if piece in places else _LAST_TO_MERGE for piece in pieces]
    return _sentencepiece(pieces, types, scores, original.drops_leading_space)


def _of_sentencepiece(content: bytes) -> dict[str, NewValue]:
    model = parse_sentencepiece_model(content)
    return _sentencepiece(model.pieces, model.types, model.scores, model.space_before_text)


def _sentencepiece(
    pieces: Sequence[str], types: Sequence[int], scores: Sequence[float], space_before_text: bool
) -> dict[str, NewValue]:
    return {
        f"{_PREFIX}model": "llama",
        **_listed(pieces, types),
        f"{_PREFIX}scores": np.array(scores, np.float32),
        f"{_PREFIX}add_space_prefix": space_before_text,
    }


def _listed(pieces: Sequence[str], types: Sequence[int]) -> dict[str, NewValue]:
    return {f"{_PREFIX}tokens": list(pieces), f"{_PREFIX}token_type": np.array(types, np.int32)}


def _tokens(file: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Pieces and types by id; ids that have no token are padding, which is in no text."""
    vocab, added = file["model"]["vocab"], file.get("added_tokens") or []
    n_tokens = 1 + max([*vocab.values(), *(token["id"] for token in added)])
    pieces = [f"[PAD{token_id}]" for token_id in range(n_tokens)]
    types = [int(TokenType.UNUSED)] * n_tokens
    for piece, token_id in vocab.items():
        pieces[token_id], types[token_id] = piece, int(TokenType.NORMAL)
    for token in added:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        pieces[token["id"]], types[token["id"]] = token["content"], int(kind)
    return pieces, types


def _split_name(content: bytes) -> str:
    """The first of GGUF's names for a way to cut text that cuts as the tokenizer.json does; of two, the one that treats
    words alike that are tokens, which changes few texts."""
    pipeline = tokenizers.Tokenizer.from_buffer(content)
    keeps_words = bool(json.loads(content)["model"].get("ignore_merges"))
    composes = pipeline.normalizer is not None and pipeline.normalizer.normalize_str("e\u0301") == "é"
    wanted = _words(pipeline.pre_tokenizer)
    alike = [
        rule for rule in BY_NAME.values() if rule.composes == composes and _words(_cutter(rule)) == wanted
    ]
    if not alike:
        raise TokenizerError(f"it cuts text in a way that GGUF has no name for; {_WAY_OUT}")
    best = min(alike, key=lambda rule: rule.keeps_words != keeps_words)
    return next(name for name, rule in BY_NAME.items() if rule == best)


def _words(cutter: Any) -> list[str]:
    return [word for word, _ in cutter.pre_tokenize_str(PROBE)] if cutter is not None else [PROBE]


def _cutter(rule: SplitRule) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(tokenizers.Regex(one), behavior="isolated") for one in rule.patterns]
    return pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _settings(tokenizer: PipelineTokenizer) -> dict[str, NewValue]:
    ends = zip(("eos", "eot", "eom"), tokenizer.eos_ids, strict=False)
    values: dict[str, NewValue] = {f"{_PREFIX}{name}_token_id": token_id for name, token_id in ends}
    if tokenizer.bos_id is not None:
        values[f"{_PREFIX}bos_token_id"] = tokenizer.bos_id
    values[f"{_PREFIX}add_bos_token"] = tokenizer.add_bos and tokenizer.bos_id is not None
    if tokenizer.chat_template:
        values[_TEMPLATE] = tokenizer.chat_template
    for name, template in tokenizer.named_templates.items():
        values[f"{_TEMPLATE}.{name}"] = template
    return values


def _say_what_differs(values: Mapping[str, NewValue], original: PipelineTokenizer, file: Path) -> None:
    written = PipelineTokenizer(parse_gguf_tokenizer(Metadata(file, as_read(values))))
    for text in _probes(original):
        if written.encode(text) != original.encode(text):
            _log.warning(
                "%s: does what a GGUF file cannot say: some texts get other ids from it, as %s does",
                file,
                plain_line(repr(text), LONGEST_NAME),
            )
            return


def _probes(tokenizer: PipelineTokenizer) -> Iterator[str]:
    """Texts, and some hundreds of tokens one by one."""
    yield from (PROBE, "   \n\n\t")
    step = max(1, math.ceil(tokenizer.vocab_size / 500))
    for token_id in range(0, tokenizer.vocab_size, step):
        yield tokenizer.token_bytes(token_id).decode("utf-8", "replace")
