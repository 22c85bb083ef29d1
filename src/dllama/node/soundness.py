"""Whether what a root asks a worker to be is possible: looked at before anything is allocated for it."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

from dllama.dtypes import ElementType
from dllama.fabric import LEAST_PEER_TIMEOUT_S
from dllama.model import (
    CACHE_TYPES,
    MATRIX_TYPES,
    CacheShape,
    ModelSpec,
    StepLimits,
    cached_widths,
    page_windows,
)
from dllama.sharding import Axis, ShardPlan

T = TypeVar("T")

MOST_PEER_TIMEOUT_S = 3600.0
MOST_TIMEOUT_S = 3600.0
"""Nobody waits longer for bytes that are owed: a worker that is held for ever serves nobody."""

MOST_RANKS = 256
_MOST_NAME = 64
_MOST_ADDRESS = 300

_MOST_ROWS = 1 << 16
_MOST_POSITIONS = (1 << 31) - 1


def check_types(values: T) -> T:
    """Returns `values`, a dataclass made from JSON, which may hold anything. Raises TypeError where a field of it,
    or of a dataclass in it, is not what it is declared to be."""
    kind: Any = type(values)
    for name, adapter in _field_types(kind).items():
        value = getattr(values, name)
        try:
            adapter.validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            raise TypeError(f"{name} is {value!r}") from error
        for each in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(each):
                check_types(each)
    return values


@functools.cache
def _field_types(kind: type) -> dict[str, pydantic.TypeAdapter[Any]]:
    """What checks the value of each field of a dataclass."""
    declared = typing.get_type_hints(kind)
    return {field.name: pydantic.TypeAdapter(declared[field.name]) for field in dataclasses.fields(kind)}


def check_company(session: str, rank: int, addresses: Sequence[object]) -> None:
    """Raises ValueError unless this may be a session's name, a worker's rank, and where its ranks are."""
    is_name = isinstance(session, str) and session.isascii() and session.isalnum()
    _require(is_name and len(session) <= _MOST_NAME, "the session's name")
    _require(isinstance(addresses, list | tuple) and len(addresses) <= MOST_RANKS, "the number of addresses")
    _require(1 <= rank < len(addresses), f"rank {rank} of {len(addresses)}")
    _require(are_addresses(addresses), "an address is none")


def check_session(
    session: str,
    rank: int,
    addresses: Sequence[str],
    model: ModelSpec,
    shards: ShardPlan,
    cache: CacheShape,
    limits: StepLimits,
) -> None:
    """Raises ValueError for a session that cannot be; the types are those declared (see check_types)."""
    config = model.config
    fault = config.fault()
    _require(fault is None, fault or "")
    check_company(session, rank, addresses)
    _require(len(addresses) == shards.n_ranks, "addresses for another number of ranks")
    _check_types(model)
    _check_shards(model.axes, shards)
    is_whole = all(width % cache.dtype.block == 0 for width in cached_widths(config))
    _require(cache.dtype in CACHE_TYPES and is_whole, f"a cache of {cache.dtype.label}")
    _check_pages(cache, page_windows(config), limits.max_positions)
    _require(limits.wire in (ElementType.F32, ElementType.Q80), f"buffers of {limits.wire.label}")
    _require(0 < limits.max_rows <= _MOST_ROWS, f"steps of {limits.max_rows} rows")
    _require(0 < limits.max_logit_rows <= limits.max_rows, f"logits of {limits.max_logit_rows} rows")
    _require(0 < limits.timeout_s <= MOST_TIMEOUT_S, f"a timeout of {limits.timeout_s} s")


def check_peer_timeout(seconds: float) -> None:
    """Raises ValueError for what nobody would wait, or could keep to."""
    _require(LEAST_PEER_TIMEOUT_S <= seconds <= MOST_PEER_TIMEOUT_S, f"a silence of {seconds} s")


def _check_pages(cache: CacheShape, windows: Sequence[int | None], n_positions: int) -> None:
    """The page groups are the model's, and a text of `n_positions` has room in that without a window."""
    _require(tuple(group.window for group in cache.groups) == windows, "page groups of another model")
    _require(0 < cache.page_size <= _MOST_POSITIONS, f"pages of {cache.page_size} positions")
    _require(0 < n_positions <= _MOST_POSITIONS, f"{n_positions} positions")
    for group in cache.groups:
        _require(group.n_pages > 0, "a cache without pages")
        n_kept = group.n_pages * cache.page_size
        _require(n_kept <= _MOST_POSITIONS, f"a cache of {n_kept} positions")
        _require(group.window is not None or n_positions <= n_kept, f"{n_positions} positions")


def _check_types(model: ModelSpec) -> None:
    """Every matrix has a type that can be multiplied with, and rows of whole blocks; stacks that are packed together
    have one type."""
    types = model.types
    _require(len(types.layers) == model.config.n_layers, f"types of {len(types.layers)} layers")
    _require(all(0 <= kind < len(types.kinds) for kind in types.layers), "a layer without types")
    _require(all(dtype in MATRIX_TYPES for dtype in types.all), f"matrices of {types.label}")
    tensors = [tensor for tensors, _ in model.alike for tensor in tensors]
    _require(all(tensor.fits_blocks for tensor in tensors), "rows that are no whole blocks")
    for layer, _ in model.alike:
        stacks = {(tensor.group or tensor.name, tensor.dtype) for tensor in layer if len(tensor.shape) == 3}
        _require(len({group for group, _ in stacks}) == len(stacks), "stacks of two types in one")


def _check_shards(axes: Sequence[Axis], shards: ShardPlan) -> None:
    """All of each axis is given to one rank each, and cut only where it may be."""
    names = {axis.name for axis in axes}
    _require(all(spans.keys() == names for spans in shards.ranks), "spans of something else")
    for axis in axes:
        spans = [of_rank[axis.name] for of_rank in shards.ranks]
        edges = [0, *(span.stop for span in spans)]
        starts = [span.start for span in spans]
        is_cover = starts == edges[:-1] and edges[-1] == axis.n and all(s.start < s.stop for s in spans)
        _require(is_cover, f"{axis.name} that are not each given to one rank")
        _require(all(start % axis.unit == 0 for start in starts), f"{axis.name} that are cut within a block")


def are_addresses(addresses: Sequence[object]) -> bool:
    """Whether these are the addresses of all ranks: "" for the root, host:port or, in an MPI job, "" for the others."""
    return not any(addresses) or all(map(_is_address, addresses[1:]))


def _is_address(text: object) -> bool:
    if not isinstance(text, str) or len(text) > _MOST_ADDRESS:
        return False
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"impossible: {what}")
