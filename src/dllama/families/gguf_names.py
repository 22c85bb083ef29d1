"""What GGUF files call a family, its numbers and its tensors (github.com/ggml-org/llama.cpp). Names only, for both
directions: `checkpoint/gguf` reads and writes by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from dllama.families.stored_parts import StoredPart
from dllama.model import Layer

NEEDED: Final[Any] = object()


class GgufKey(NamedTuple):
    """A key of the metadata, without the architecture's name before it."""

    name: str
    kind: type
    """int, float, bool, str; list: a value for each layer."""
    default: Any = NEEDED
    """What llama.cpp takes where a file has not got it. None: nothing is said, and the family's own default counts."""


def _nothing(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufNames:
    architecture: str
    """`general.architecture`. Where several families have the same, `told_by` tells them apart; else the first of
    families/table.py reads the files."""
    told_by: str | None = None
    """A key that is there and not 0 in files of this family alone among those of its architecture."""
    keys: Mapping[str, GgufKey | None] = dataclasses.field(default_factory=dict)
    """config.json's name of a number to the file's, beside the usual ones (checkpoint/gguf/names.py). None: a usual one
    that these files have not got."""
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What a tensor says by being there: config.json's name of a flag to our name of the tensor."""
    ignored: tuple[str, ...] = ()
    """Keys that say nothing of what is computed."""
    implied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What holds of every such file without being said, by config.json's names."""
    derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _nothing
    """What follows from values that are there (by config.json's names), in addition to them."""
    part_of: Callable[[Layer, str], StoredPart | None] = lambda layer, name: None
    """Of which tensor of the file that of a layer (its name without `layers.N.`) is a part, or has another order."""
    tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Our name of a tensor (without `layers.N.`) to the file's, where it is not the usual one. Rows of q and k are in
    the order of the config's rope."""
