"""One model in GGUF files: a single file, or all parts of a split one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ModelFileError
from dllama.formats.gguf.header import MAGIC, GgufTensor, HeaderError, parse_header
from dllama.formats.gguf.metadata import Metadata
from dllama.formats.mapped import MappedFile
from dllama.plain_text import LONGEST_NAME, plain_line

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_PART_NUMBER, _N_PARTS, _N_TENSORS = "split.no", "split.count", "split.tensors.count"


@dataclasses.dataclass(frozen=True)
class _Part:
    map: MappedFile
    metadata: Metadata
    tensors: Mapping[str, GgufTensor]

    @classmethod
    def opened(cls, path: Path) -> _Part:
        mapped = MappedFile(path, ours=MAGIC)
        try:
            header = parse_header(mapped.bytes.data)
        except HeaderError as error:
            raise ModelFileError(f"{path}: {error}") from error
        return cls(mapped, Metadata(path, header.metadata), header.tensors)


class GgufFile:
    """A model's `metadata` and `tensors` by name, mapped. Safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        """Opens the file; of a split model, whose first part `path` is, all parts, which lie beside it.

        Raises ModelFileError naming the file when one is missing, is no sound GGUF file or does not belong to the
        others, and when `path` is another part than the first.
        """
        self.path = path
        first = _Part.opened(path)
        parts = [first, *map(_Part.opened, _other_parts(path, first.metadata))]
        _check_parts(parts)
        self.metadata = first.metadata
        self.tensors: dict[str, GgufTensor] = {}
        self._maps: dict[str, MappedFile] = {}
        for part in parts:
            self.tensors.update(part.tensors)
            self._maps.update(dict.fromkeys(part.tensors, part.map))
        self._parts = [part.map for part in parts]

    @property
    def paths(self) -> list[Path]:
        """The files that it is made of."""
        return [part.path for part in self._parts]

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes, uint8 [n], a view of the map. Raises KeyError when there is none by the name."""
        tensor = self.tensors[name]
        return self._maps[name].bytes[tensor.start : tensor.stop]

    def path_of(self, name: str) -> Path:
        """The file that the tensor is in."""
        return self._maps[name].path

    def check(self) -> None:
        """See MappedFile.check; for all parts."""
        for part in self._parts:
            part.check()

    def check_of(self, name: str) -> Callable[[], None]:
        """`check` for the one file that the tensor is in."""
        return self._maps[name].check

    def let_go(self) -> None:
        for part in self._parts:
            part.let_go()

    def close(self) -> None:
        """Ends the use of the files. Views that were handed out stay valid."""
        for part in self._parts:
            part.close()


def _other_parts(path: Path, metadata: Metadata) -> list[Path]:
    """All parts but the first, which `path` is; nothing for a model in one file."""
    n_parts = metadata.find(_N_PARTS, int) or 1
    number = metadata.find(_PART_NUMBER, int) or 0
    name = _PART.fullmatch(path.name)
    if n_parts == 1:
        return []
    if name is None or int(name[2]) != number + 1 or int(name[3]) != n_parts:
        raise ModelFileError(
            f"{path}: is part {number + 1} of {n_parts} of a split model and has another name; give all parts their"
            f" names back, as {name[1] if name else 'NAME'}-{number + 1:05}-of-{n_parts:05}.gguf"
        )
    if number != 0:
        first = path.with_name(f"{name[1]}-00001-of-{name[3]}.gguf")
        raise ModelFileError(
            f"{path}: is part {number + 1} of {n_parts} of a split model; give the first, {first.name}"
        )
    others = [path.with_name(f"{name[1]}-{part:05}-of-{name[3]}.gguf") for part in range(2, n_parts + 1)]
    missing = [other.name for other in others if not other.exists()]
    if missing:
        more = f", and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise ModelFileError(
            f"{path}: is part 1 of {n_parts}, and {missing[0]}{more} missing beside it; download all parts"
        )
    return others


def _check_parts(parts: list[_Part]) -> None:
    """Raises ModelFileError unless these are the parts of one model."""
    first = parts[0]
    seen: set[str] = set()
    for number, part in enumerate(parts):
        if number:
            for key, wanted in ((_PART_NUMBER, number), (_N_PARTS, len(parts))):
                found = part.metadata.find(key, int)
                if found != wanted:
                    raise _of_another(part, f"its {key} is {found}, not {wanted}")
            ours, theirs = (one.metadata.find(_N_TENSORS, int) for one in (first, part))
            if ours != theirs:
                raise _of_another(
                    part, f"its {_N_TENSORS} is {theirs}, and that of {first.map.path.name} {ours}"
                )
        for name in part.tensors.keys() & seen:
            raise _of_another(part, f"{plain_line(name, LONGEST_NAME)} is in a part before it too")
        seen |= part.tensors.keys()
    n_tensors = first.metadata.find(_N_TENSORS, int) if len(parts) > 1 else None
    if n_tensors is not None and n_tensors != len(seen):
        raise ModelFileError(
            f"{first.map.path}: its parts have {len(seen)} tensors, and it says {n_tensors}; download all parts again"
        )


def _of_another(part: _Part, why: str) -> ModelFileError:
    return ModelFileError(
        f"{part.map.path}: belongs to another model than the parts before it: {why}; download all parts again"
    )
