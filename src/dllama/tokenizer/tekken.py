"""Mistral's tekken.json, read: byte-level tokens with their ranks, as tiktoken has them, behind special tokens.

Older files do not list their special tokens: those of mistral-common (tokens/tokenizers/tekken.py) are taken then.
"""

from __future__ import annotations

import binascii
import json
import reprlib
from typing import Any

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Settings
from dllama.tokenizer.byte_alphabet import write_bytes
from dllama.tokenizer.pipeline import Parsed
from dllama.tokenizer.split_rules import TEKKEN
from dllama.tokenizer.vocabulary import Vocabulary, byte_level_pipeline

_BEGINNING = 1 << 16
_MAX_TOKENS = 1 << 20
_BOS, _EOS = "<s>", "</s>"
_SPECIAL_NAMES = (
    "<unk>", _BOS, _EOS, "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


def is_tekken(content: bytes) -> bool:
    """Whether it is such a file, by how it begins."""
    return b'"token_bytes"' in content[:_BEGINNING]


def parse_tekken(content: bytes) -> Parsed:
    """Raises TokenizerError on a damaged file, or one that cuts text in a way that is not known."""
    try:
        values = json.loads(content)
        config, vocabulary = values["config"], values["vocab"]
        n_tokens, n_special = config["default_vocab_size"], config["default_num_special_tokens"]
        pattern = config["pattern"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise TokenizerError("it is no sound tekken.json; download it again") from error
    if pattern not in TEKKEN.patterns:
        raise TokenizerError(
            f"it cuts text by {reprlib.repr(pattern)}, which is not known; use the model's tokenizer.json"
        )
    if not (type(n_tokens) is type(n_special) is int and 0 < n_special < n_tokens <= _MAX_TOKENS):
        raise TokenizerError("its numbers of tokens cannot be; download it again")
    names = _special_names(values.get("special_tokens"), n_special)
    tokens = _tokens(vocabulary, n_tokens - n_special)
    if _BOS not in names or _EOS not in names:
        raise TokenizerError(f"it has no {_BOS} or no {_EOS}; download it again")
    pieces = [*names, *map(write_bytes, tokens)]
    parts = Vocabulary(
        pieces=pieces, order=range(n_special, len(pieces)), special=frozenset(range(n_special))
    )
    return Parsed(
        pipeline=byte_level_pipeline(parts, TEKKEN),
        tokens=[name.encode() for name in names] + tokens,
        settings=Settings(
            bos_id=names.index(_BOS), add_bos=True, eos_ids=(names.index(_EOS),), chat_template=None
        ),
    )


def _special_names(said: Any, n: int) -> list[str]:
    """Of all special tokens; those that have none are numbered."""
    names = [f"<SPECIAL_{number}>" for number in range(n)]
    if said is None:
        said = [{"rank": rank, "token_str": name} for rank, name in enumerate(_SPECIAL_NAMES)]
    for each in said if isinstance(said, list) else [None]:
        rank, name = (each.get("rank"), each.get("token_str")) if isinstance(each, dict) else (None, None)
        if type(rank) is not int or not isinstance(name, str) or not 0 <= rank < n:
            raise TokenizerError(f"its special token {reprlib.repr(each)} cannot be; download it again")
        names[rank] = name
    if len(set(names)) < n:
        raise TokenizerError("two of its special tokens have one name; download it again")
    return names


def _tokens(vocabulary: Any, n: int) -> list[bytes]:
    if not isinstance(vocabulary, list) or len(vocabulary) < n:
        raise TokenizerError(f"it has no list of {n} tokens; download it again")
    tokens = []
    for number, each in enumerate(vocabulary[:n]):
        try:
            tokens.append(binascii.a2b_base64(each["token_bytes"], strict_mode=True))
            is_in_order = each["rank"] == number
        except (ValueError, KeyError, TypeError) as error:
            raise TokenizerError(f"its token {number} is none in base64; download it again") from error
        if not is_in_order:
            raise TokenizerError(
                f"its token {number} has the rank {reprlib.repr(each['rank'])}; download it again"
            )
    missing = 256 - sum(len(token) == 1 for token in set(tokens))
    if missing:
        raise TokenizerError(f"{missing} of the 256 bytes have no token; download it again")
    return tokens
