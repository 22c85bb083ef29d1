"""The 256 printable characters by which byte-level vocabularies write bytes (GPT-2's table).

Bytes that are visible characters in Latin-1 stand for themselves; the other 68, in order, for U+0100 onward.
"""

from __future__ import annotations


def _alphabet() -> list[str]:
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + hidden.index(byte)) for byte in range(256)]


CHARACTER_OF_BYTE: list[str] = _alphabet()
BYTE_OF_CHARACTER: dict[str, int] = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}

_TO_ALPHABET = dict(enumerate(CHARACTER_OF_BYTE))
_TO_LATIN_1 = {ord(character): byte for character, byte in BYTE_OF_CHARACTER.items()}


def write_bytes(token: bytes) -> str:
    return token.decode("latin-1").translate(_TO_ALPHABET)


def read_bytes(token: str) -> bytes:
    """The inverse of write_bytes; characters outside the alphabet become their UTF-8."""
    try:
        return token.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        return b"".join(
            bytes([BYTE_OF_CHARACTER[character]]) if character in BYTE_OF_CHARACTER else character.encode()
            for character in token
        )
