"""Whether what a root asks a worker to be is possible: looked at before anything is allocated for it."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

from dllama.dtypes import BLOCK, ElementType
from dllama.fabric import LEAST_PEER_TIMEOUT_S
from dllama.families import ModelConfig, tensor_specs
from dllama.families.limits import fault_in
from dllama.model import CACHE_TYPES, CacheShape, StepLimits
from dllama.sharding import ShardPlan, Span

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
        if dataclasses.is_dataclass(value):
            check_types(value)
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
    config: ModelConfig,
    shards: ShardPlan,
    cache: CacheShape,
    limits: StepLimits,
) -> None:
    """Raises ValueError for a session that cannot be; the types are those declared (see check_types)."""
    fault = fault_in(config)
    _require(fault is None, fault or "")
    check_company(session, rank, addresses)
    _require(len(addresses) == shards.n_ranks, "addresses for another number of ranks")
    _check_shards(config, shards)
    is_whole = not cache.dtype.is_blocked or config.head_dim % BLOCK == 0
    _require(cache.dtype in CACHE_TYPES and is_whole, f"a cache of {cache.dtype.label}")
    _require(cache.n_pages > 0 and cache.page_size > 0, "a cache without pages")
    _require(cache.n_positions <= _MOST_POSITIONS, f"a cache of {cache.n_positions} positions")
    _require(limits.wire in (ElementType.F32, ElementType.Q80), f"buffers of {limits.wire.label}")
    _require(0 < limits.max_rows <= _MOST_ROWS, f"steps of {limits.max_rows} rows")
    _require(0 < limits.max_logit_rows <= limits.max_rows, f"logits of {limits.max_logit_rows} rows")
    _require(0 < limits.max_positions <= cache.n_positions, f"{limits.max_positions} positions")
    _require(0 < limits.timeout_s <= MOST_TIMEOUT_S, f"a timeout of {limits.timeout_s} s")


def check_peer_timeout(seconds: float) -> None:
    """Raises ValueError for what nobody would wait, or could keep to."""
    _require(LEAST_PEER_TIMEOUT_S <= seconds <= MOST_PEER_TIMEOUT_S, f"a silence of {seconds} s")


def _check_shards(config: ModelConfig, shards: ShardPlan) -> None:
    """Every head, FFN column and vocabulary row belongs to one rank, and no block of weights is cut."""
    ranks = shards.ranks
    _require(all(spec.fits_blocks for spec in tensor_specs(config)), "rows that are no whole blocks")
    _check_cover([spans.heads for spans in ranks], config.n_heads, "heads")
    _check_cover([spans.ffn for spans in ranks], config.ffn_dim, "FFN columns")
    _check_cover([spans.vocab for spans in ranks], config.vocab_size, "vocabulary rows")
    for spans in ranks:
        kv_heads = Span(spans.heads.start // config.group, -(-spans.heads.stop // config.group))
        _require(spans.kv_heads == kv_heads, "KV heads of other query heads")
        if config.weight_type.is_blocked:
            is_whole = spans.heads.start * config.head_dim % BLOCK == 0 and spans.ffn.start % BLOCK == 0
            _require(is_whole, "spans that cut a block")


def _check_cover(spans: Sequence[Span], total: int, what: str) -> None:
    edges = [0, *(span.stop for span in spans)]
    starts = [span.start for span in spans]
    is_cover = starts == edges[:-1] and edges[-1] == total and all(s.start < s.stop for s in spans)
    _require(is_cover, f"{what} that are not each given to one rank")


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
