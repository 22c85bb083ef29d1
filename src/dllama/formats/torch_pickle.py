"""What `torch.save` has written of a dict of tensors, read without running anything.

A pickle is a program that may call whatever it names. Here its operations are looked at one by one, and what they name
is four things: an OrderedDict, a tensor as a view of a storage, a parameter around a tensor, and the types of storages.
Everything else is refused by its name, as is every operation that these do not need.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

STORAGE_TYPES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "BFloat16Storage": ("BF16", 2),
        "HalfStorage": ("F16", 2),
        "FloatStorage": ("F32", 4),
        "DoubleStorage": ("F64", 8),
        "LongStorage": ("I64", 8),
        "IntStorage": ("I32", 4),
        "CharStorage": ("I8", 1),
        "ByteStorage": ("U8", 1),
        "BoolStorage": ("BOOL", 1),
    }
)
"""The name of a type in safetensors files, and the bytes of an element."""

_MARK = object()


@dataclasses.dataclass(frozen=True)
class _Named:
    """What the pickle calls by a name."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """The elements that lie in the archive's file `data/KEY`."""

    key: str
    dtype: str
    n_elements: int


@dataclasses.dataclass(frozen=True)
class StorageView:
    """A tensor: elements of a storage from `offset` on, which `strides` (counted in elements) lead through."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_ORDERED_DICT, _TENSOR, _PARAMETER = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
_NAMES = {_ORDERED_DICT, _TENSOR, _PARAMETER, *(f"torch.{name}" for name in STORAGE_TYPES)}

_IGNORED = ("PROTO", "FRAME", "STOP")
_CONSTANTS: Mapping[str, Any] = MappingProxyType({"NONE": None, "NEWTRUE": True, "NEWFALSE": False})
_VALUES = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "UNICODE",
)  # fmt: skip


def read_state_dict(pickle: bytes) -> dict[str, StorageView]:
    """The tensors by their names. What is no tensor is left out. Raises ValueError, of one line, for what is not
    read."""
    try:
        saved = _Machine().run(pickle)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("its pickle is damaged") from error
    if not isinstance(saved, dict):
        raise ValueError("it holds no dict of tensors")
    return {name: value for name, value in saved.items() if isinstance(value, StorageView)}


class _Machine:
    """The stack and the memo of a pickle's program."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(pickle):
            name = opcode.name
            if name in _IGNORED:
                continue
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _VALUES:
                self._stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise ValueError(f"its pickle has the operation {name}, which no dict of tensors needs")
        return self._stack.pop()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def since_mark(self) -> list[Any]:
        at = max(index for index, value in enumerate(self._stack) if value is _MARK)
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def tuple_of(self, n: int) -> None:
        items = tuple(self._stack[-n:])
        del self._stack[-n:]
        self.push(items)

    def put(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else number] = self._stack[-1]

    def get(self, number: int) -> None:
        self.push(self._memo[number])

    def named(self, argument: str) -> None:
        name = argument.replace(" ", ".")
        if name not in _NAMES:
            raise ValueError(
                f"its pickle asks for {name}, which is no part of a dict of tensors and is not run"
            )
        self.push(_Named(name))

    def stack_named(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self.named(f"{module} {name}")

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError("its pickle is damaged")
        target.update(zip(items[::2], items[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self.set_items([key, value])

    def storage(self) -> None:
        kind, of_type, key, _, n_elements = self._stack.pop()
        short = of_type.name.removeprefix("torch.")
        if kind != "storage" or short not in STORAGE_TYPES or not isinstance(key, str):
            raise ValueError("its pickle names something outside of it that is no storage")
        self.push(Storage(key, STORAGE_TYPES[short][0], int(n_elements)))

    def call(self) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if called == _Named(_ORDERED_DICT) and not arguments:
            self.push({})
        elif called == _Named(_TENSOR) and isinstance(arguments[0], Storage):
            storage, offset, shape, strides = arguments[:4]
            self.push(StorageView(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides))))
        elif called == _Named(_PARAMETER) and isinstance(arguments[0], StorageView):
            self.push(arguments[0])
        else:
            raise ValueError("its pickle makes something that is no tensor")

    def leave_state(self) -> None:
        """An OrderedDict's own attributes."""
        self._stack.pop()


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = MappingProxyType(
    {
        "MARK": lambda machine, _: machine.push(_MARK),
        "EMPTY_DICT": lambda machine, _: machine.push({}),
        "EMPTY_TUPLE": lambda machine, _: machine.push(()),
        "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
        "TUPLE1": lambda machine, _: machine.tuple_of(1),
        "TUPLE2": lambda machine, _: machine.tuple_of(2),
        "TUPLE3": lambda machine, _: machine.tuple_of(3),
        "BINPUT": lambda machine, number: machine.put(number),
        "LONG_BINPUT": lambda machine, number: machine.put(number),
        "MEMOIZE": lambda machine, _: machine.put(None),
        "BINGET": lambda machine, number: machine.get(number),
        "LONG_BINGET": lambda machine, number: machine.get(number),
        "GLOBAL": lambda machine, name: machine.named(name),
        "STACK_GLOBAL": lambda machine, _: machine.stack_named(),
        "SETITEM": lambda machine, _: machine.set_item(),
        "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
        "BINPERSID": lambda machine, _: machine.storage(),
        "REDUCE": lambda machine, _: machine.call(),
        "BUILD": lambda machine, _: machine.leave_state(),
    }
)
