"""tiktoken's tokenizer.model (Llama 3), read: lines of a token in base64 and its rank.

The special tokens are not in the file. They follow the ranks in the order of Meta's own tokenizer
(https://github.com/meta-llama/llama-models, models/llama3/tokenizer.py).
"""

from __future__ import annotations

import binascii

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Settings
from dllama.tokenizer.byte_alphabet import write_bytes
from dllama.tokenizer.pipeline import Parsed
from dllama.tokenizer.split_rules import LLAMA_3
from dllama.tokenizer.vocabulary import Vocabulary, byte_level_pipeline

N_SPECIAL_TOKENS = 256

_NAMED = (
    "begin_of_text",
    "end_of_text",
    "reserved_special_token_0",
    "reserved_special_token_1",
    "finetune_right_pad_id",
    "step_id",
    "start_header_id",
    "end_header_id",
    "eom_id",
    "eot_id",
    "python_tag",
)
_RESERVED = (f"reserved_special_token_{number}" for number in range(2, N_SPECIAL_TOKENS - len(_NAMED) + 2))

SPECIAL_NAMES = [f"<|{name}|>" for name in (*_NAMED, *_RESERVED)]

_MAX_RANKS = 130_000
"""Llama 3 has 128000. Llama 4, with 200000, cuts text in another way and has other special tokens."""


def is_tiktoken_ranks(content: bytes) -> bool:
    """Whether the first line is one of base64 and a number."""
    line = content.split(b"\n", 1)[0].split()
    try:
        return len(line) == 2 and int(line[1]) >= 0 and bool(binascii.a2b_base64(line[0], strict_mode=True))
    except ValueError:
        return False


def parse_tiktoken_ranks(content: bytes) -> Parsed:
    """Llama 3's tokenizer. Raises TokenizerError on a damaged file, or one with more ranks than Llama 3's."""
    tokens = _read_ranks(content)
    n_ranks = len(tokens)
    special_ids = range(n_ranks, n_ranks + N_SPECIAL_TOKENS)
    id_of = dict(zip(SPECIAL_NAMES, special_ids, strict=True))
    vocabulary = Vocabulary(
        pieces=[*map(write_bytes, tokens), *SPECIAL_NAMES],
        order=range(n_ranks),
        special=frozenset(special_ids),
    )
    settings = Settings(
        bos_id=id_of["<|begin_of_text|>"],
        add_bos=True,
        eos_ids=(id_of["<|eot_id|>"], id_of["<|eom_id|>"], id_of["<|end_of_text|>"]),
        chat_template=None,
    )
    return Parsed(
        pipeline=byte_level_pipeline(vocabulary, LLAMA_3),
        tokens=tokens + [name.encode() for name in SPECIAL_NAMES],
        settings=settings,
    )


def _read_ranks(content: bytes) -> list[bytes]:
    tokens = []
    for number, line in enumerate(content.splitlines()):
        try:
            token, rank = line.split()
            tokens.append(binascii.a2b_base64(token, strict_mode=True))
            in_order = int(rank) == number
        except ValueError as error:
            raise TokenizerError(f"line {number + 1} is not a token in base64 and its rank") from error
        if not in_order:
            raise TokenizerError(f"line {number + 1} has the rank {int(rank)}, not {number}")
    if len(tokens) > _MAX_RANKS:
        raise TokenizerError(f"{len(tokens)} ranks are not Llama 3's; use the model's tokenizer.json")
    missing = 256 - sum(len(token) == 1 for token in set(tokens))
    if missing:
        raise TokenizerError(f"{missing} of the 256 bytes have no token; copy the file again")
    return tokens
