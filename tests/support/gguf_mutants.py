"""Damaged GGUF files without end, the same for the same seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np

from dllama.formats.gguf import GgmlType, Texts, ValueType
from dllama.formats.gguf.header import HeaderError, parse_header
from support.gguf_bytes import LAYOUTS, array, gguf_file, key, split_part, tensor

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    13,
    31,
    32,
    255,
    1 << 16,
    1 << 31,
    (1 << 32) - 1,
    10**9,
    1 << 61,
    1 << 63,
    (1 << 64) - 1,
)
_WIDTHS = ((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q"))


def sound_files() -> list[bytes]:
    scalars = [key(f"k.{kind}", kind, 1) for kind in LAYOUTS]
    lists = [array(f"l.{kind}", kind, [0, 1, 1, 0]) for kind in LAYOUTS]
    texts = [
        key("general.name", ValueType.STRING, "a name"),
        array("t", ValueType.STRING, ["a", "bc", "", "d"]),
    ]
    aligned = key("general.alignment", ValueType.UINT32, 64)
    table = [
        tensor("a", [8, 2]),
        tensor("b", [256], GgmlType.Q4_K, 64),
        tensor("c", [2, 2, 2], GgmlType.F16, 256),
    ]
    return [
        gguf_file([*scalars, *texts]),
        gguf_file([*lists, *texts], table, bytes(272)),
        gguf_file([aligned, *texts], table, bytes(272), alignment=64),
        split_part(0, 2, 3, table, bytes(272)),
    ]


def mutants(seed: int) -> Iterator[bytes]:
    """One to four changes of a sound file: bits, numbers, cuts, doublings, pieces of another."""
    rng, sound = random.Random(seed), sound_files()
    while True:
        data = bytearray(rng.choice(sound))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            kind = rng.randrange(8)
            if kind < 3:
                width, layout = rng.choice(_WIDTHS)
                data[at : at + width] = struct.pack(layout, rng.choice(_NUMBERS) & (1 << 8 * width) - 1)
            elif kind < 5 and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 5:
                del data[at : at + rng.choice((1, 4, 8, 64, 4096))]
            elif kind == 6:
                data[at:at] = data[at : at + rng.choice((1, 4, 8, 64))]
            else:
                other = rng.choice(sound)
                data[at:] = other[rng.randrange(len(other)) :]
            if not data:
                break
        yield bytes(data)


def outcome(data: bytes) -> str:
    """Reads the header and all of the metadata: "read", or what was wrong. Asserts that all that is read lies in the
    file."""
    try:
        header = parse_header(memoryview(data))
    except HeaderError as error:
        return str(error)
    for value in header.metadata.values():
        if isinstance(value, Texts):
            assert sum(map(len, value.as_bytes())) + 8 * len(value) <= len(data)
            value.as_text()
        elif isinstance(value, np.ndarray):
            assert value.nbytes <= len(data)
            value.tolist()
    at = 0
    for one in sorted(header.tensors.values(), key=lambda one: one.start):
        assert at <= one.start < one.stop <= len(data)
        at = one.stop
    return "read"
