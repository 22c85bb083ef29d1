"""SentencePiece's precompiled table of characters and what they become (`precompiled_charsmap`), checked.

Its layout is that of github.com/google/sentencepiece (src/normalizer.cc): uint32 size of a trie in bytes, the trie, and
texts that each end with a zero byte. The trie is Darts-clone's double array: a unit leads, by its offset and the next
byte, to another unit; one with a leaf leads, by its offset alone, to the place of a text.
"""

from __future__ import annotations

import struct

import numpy as np

from dllama.errors import TokenizerError

_SIZE = struct.Struct("<I")
_BYTES = 256  # one step may go to any of as many units


def check_character_map(table: bytes) -> None:
    """Raises TokenizerError unless no text leads out of the table: the library that reads it trusts it."""
    n_bytes = _SIZE.unpack_from(table)[0] if len(table) >= _SIZE.size else 0
    texts = table[_SIZE.size + n_bytes :]
    if not n_bytes or n_bytes % 4 or _SIZE.size + n_bytes > len(table) or not texts.endswith(b"\0"):
        raise _damaged()
    units = np.frombuffer(table, "<u4", n_bytes // 4, _SIZE.size)
    places = np.arange(len(units), dtype=np.uint32)
    leads_on = units >> 31 == 0
    leads_on[0] = True
    bases = (places ^ (units >> 10) << ((units >> 9 & 1) << 3))[leads_on]
    if int(bases.max()) // _BYTES * _BYTES + _BYTES > len(units):
        raise _damaged()
    leaves = units[bases[units[leads_on] >> 8 & 1 == 1]] & 0x7FFFFFFF
    try:
        texts.decode()
    except UnicodeDecodeError as error:
        raise _damaged() from error
    starts = np.frombuffer(texts, np.uint8) & 0xC0 != 0x80
    if len(leaves) and (leaves.max() >= len(texts) or not starts[leaves].all()):
        raise _damaged()


def _damaged() -> TokenizerError:
    return TokenizerError("its table of characters (precompiled_charsmap) is damaged; download it again")
