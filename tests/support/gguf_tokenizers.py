"""Tokenizers as GGUF files: the metadata that llama.cpp's converters write for a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dllama.formats.gguf import ValueType
from dllama.tokenizer.gguf_tokens import TokenType
from support.gguf_bytes import array, gguf_file, key

_KINDS = {bool: ValueType.BOOL, int: ValueType.UINT32, str: ValueType.STRING}
_ITEMS = {int: ValueType.INT32, float: ValueType.FLOAT32, str: ValueType.STRING, bytes: ValueType.STRING}


def write_vocabulary(path: Path, **values: Any) -> Path:
    """A GGUF file without tensors. `values` are scalars and lists; a name begins with `tokenizer.ggml.`, or is a whole
    one where it has a dot (pass those by `**{}`)."""
    keys = [key("general.architecture", ValueType.STRING, values.pop("architecture", "llama"))]
    for name, value in values.items():
        full = name if "." in name else f"tokenizer.ggml.{name}"
        if isinstance(value, bytes):
            keys.append(array(full, ValueType.UINT8, value))
        elif isinstance(value, list):
            keys.append(array(full, _ITEMS[type(value[0])] if value else ValueType.STRING, value))
        else:
            keys.append(key(full, _KINDS[type(value)], value))
    path.write_bytes(gguf_file(keys))
    return path


def byte_level(tokenizer_json: Path, pre: str | None) -> dict[str, Any]:
    """What write_vocabulary takes, for a byte-level tokenizer.json."""
    file = json.loads(tokenizer_json.read_bytes())
    pieces, types = _tokens(file)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in file["model"]["merges"]]
    values = {"model": "gpt2", "tokens": pieces, "token_type": types, "merges": merges}
    return values if pre is None else values | {"pre": pre}


def sentencepiece(tokenizer_json: Path) -> dict[str, Any]:
    """The same for a BPE with byte fallback; scores are minus the place of the first merge that makes a piece."""
    file = json.loads(tokenizer_json.read_bytes())
    pieces, types = _tokens(file)
    types = [
        TokenType.BYTE if piece.startswith("<0x") and piece.endswith(">") else kind
        for piece, kind in zip(pieces, types, strict=True)
    ]
    types[pieces.index("<unk>")] = TokenType.UNKNOWN
    merges = ["".join(m.split(" ")) if isinstance(m, str) else "".join(m) for m in file["model"]["merges"]]
    place = {piece: -float(number) for number, piece in reversed([*enumerate(merges)])}
    scores = [place.get(piece, -1e6) for piece in pieces]
    return {"model": "llama", "tokens": pieces, "token_type": [*map(int, types)], "scores": scores}


def _tokens(file: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Pieces and types by id; ids that have none are padding, which is in no text."""
    added: Sequence[Mapping[str, Any]] = file["added_tokens"]
    size = max([*file["model"]["vocab"].values(), *(token["id"] for token in added)]) + 1
    pieces = [f"[PAD{token_id}]" for token_id in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for piece, token_id in file["model"]["vocab"].items():
        pieces[token_id], types[token_id] = piece, TokenType.NORMAL
    for token in added:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        pieces[token["id"]], types[token["id"]] = token["content"], kind
    return pieces, [*map(int, types)]
