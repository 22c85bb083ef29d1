"""A step as it travels: what the root asks every worker to compute, and the candidates that a worker answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.dtypes import ElementType, row_bytes
from dllama.fabric import Buffer
from dllama.model import (
    MOST_CANDIDATES,
    CacheShape,
    LogitEdits,
    LogitMasks,
    LogitRows,
    ModelConfig,
    RankCandidates,
    StepBatch,
    StepLimits,
)
from dllama.node.input_rows import APART_BYTES, STORED, InputRows, message_bytes
from dllama.node.messages import parse_message
from dllama.node.timing import NodeTimes
from dllama.sharding import Span

_INT, _FLOAT, _DOUBLE = np.dtype("<i4"), np.dtype("<f4"), np.dtype("<f8")
_N_COUNTS = 8  # before those of the page groups
_N_TIMES = 3
_MOST_POSITIONS = (1 << 31) - 1


def encode_steps(batch: StepBatch, inputs: InputRows, vocabs: Sequence[Span]) -> list[bytes]:
    """The payload of a STEP for each of `vocabs`, the vocabulary spans of those who get it.

    Eight int32: T, S, N, C, K edits, M masks, D, element type of the inputs; then for each page group P, pages of each
    sequence. Then int32: sequence lengths [S], first positions [S], page table [S, P] of each group, wanted rows [N],
    targets [N], index and ids of the edits [K], index of the masks [M]. Then float32: temperature [N], scale and add of
    the edits [K]. Then the inputs [T, D], unless they travel apart. Then the masks [M, B] uint8. Token ids stay with
    the root.

    Edits and masks are those of the span: B bytes that hold its bits. A step without them is one buffer for all.
    """
    if batch.wanted.edits is None and batch.wanted.masks is None:
        return [_encode(batch, NO_EDITS, NO_MASKS, inputs)] * len(vocabs)
    return [
        _encode(
            batch,
            _edits_within(batch.wanted.edits or NO_EDITS, vocab),
            _masks_within(batch.wanted.masks or NO_MASKS, vocab),
            inputs,
        )
        for vocab in vocabs
    ]


def _encode(batch: StepBatch, edits: LogitEdits, masks: LogitMasks, inputs: InputRows) -> bytes:
    lengths, starts = batch.runs()
    wanted, tables = batch.wanted, batch.page_tables
    counts = [batch.n_rows, batch.n_sequences, len(wanted.rows), wanted.n_candidates]
    counts += [len(edits.ids), len(masks.index), inputs.stored.shape[1], inputs.dtype]
    counts += [table.shape[1] for table in tables]
    ints = [counts, lengths, starts, *tables]
    ints += [wanted.rows, wanted.targets, edits.index, edits.ids, masks.index]
    floats = [wanted.temperature, edits.scale, edits.add]
    parts = [*_in_bytes(_INT, ints), *_in_bytes(_FLOAT, floats)]
    if not inputs.travel_apart:
        parts.append(inputs.stored.tobytes())
    return b"".join([*parts, masks.allowed.tobytes()])


def _edits_within(edits: LogitEdits, vocab: Span) -> LogitEdits:
    here = (edits.ids >= vocab.start) & (edits.ids < vocab.stop)
    return LogitEdits(
        index=edits.index[here], ids=edits.ids[here], scale=edits.scale[here], add=edits.add[here]
    )


def _masks_within(masks: LogitMasks, vocab: Span) -> LogitMasks:
    """The bytes alone that hold the span's bits: not what LogitMasks are to a node, but what travels of them."""
    own = _mask_bytes(vocab)
    return LogitMasks(index=masks.index, allowed=np.ascontiguousarray(masks.allowed[:, own.start : own.stop]))


def _mask_bytes(vocab: Span) -> Span:
    """The bytes of a mask that hold the bits of a span."""
    return Span(vocab.start // 8, -(-vocab.stop // 8))


def decode_step(
    payload: bytes | bytearray,
    config: ModelConfig,
    limits: StepLimits,
    cache: CacheShape,
    vocab: Span,
    sender: str,
) -> tuple[StepBatch, InputRows]:
    """The inverse of encode_steps for the rank with the span `vocab`: token ids are zeros, and so are the bits of
    masks that are not in bytes of the span; inputs may be still to come. Raises PeerProtocolError on anything
    impossible."""

    def parse() -> tuple[StepBatch, InputRows]:
        counts, pages = _step_counts(payload, config, limits, cache, vocab)
        n_rows, n_sequences, n_wanted, _, n_edits, n_masks, _, input_type = counts
        own = _mask_bytes(vocab)
        ints = [n_sequences, n_sequences, *(n_sequences * n_pages for n_pages in pages)]
        ints += [n_wanted, n_wanted, n_edits, n_edits, n_masks]
        floats = [n_wanted, n_edits, n_edits]
        dtype, shape = ElementType(input_type), (n_rows, config.dim)
        ints_start = 4 * (_N_COUNTS + len(pages))
        floats_start = ints_start + 4 * sum(ints)
        inputs_start = floats_start + 4 * sum(floats)
        masks_start = inputs_start + message_bytes(dtype, shape)
        _require(len(payload) == masks_start + n_masks * len(own), "size")
        lengths, starts, *rest = _split(payload, _INT, ints_start, ints)
        tables, wanted_ints = rest[: len(pages)], rest[len(pages) :]
        wanted_floats = _split(payload, _FLOAT, floats_start, floats)
        allowed = np.zeros((n_masks, -(-config.vocab_size // 8)), np.uint8)
        if n_masks:
            bits = np.frombuffer(payload, np.uint8, offset=masks_start)
            allowed[:, own.start : own.stop] = bits.reshape(n_masks, len(own))
        n_positions = min(limits.max_positions, _reach(pages, cache))
        positions, sequence = _rows(lengths, starts, n_rows, n_positions)
        batch = StepBatch(
            token_ids=np.zeros(n_rows, np.int32),
            positions=positions,
            sequence=sequence,
            page_tables=_page_tables(tables, lengths, starts, cache),
            wanted=_wanted(counts, wanted_ints, wanted_floats, allowed, config.vocab_size, vocab),
        )
        return batch, InputRows.from_message(dtype, shape, payload, inputs_start)

    return parse_message("step", sender, parse)


def max_step_bytes(config: ModelConfig, limits: StepLimits, cache: CacheShape, vocab: Span) -> int:
    """The largest STEP that a session may need: every row a sequence of its own with all the pages that one can have,
    every logit of the span edited, every wanted row masked."""
    words = _N_COUNTS + len(cache.groups) + limits.max_rows * (2 + sum(_most_pages(limits, cache)))
    words += limits.max_logit_rows * (4 + 4 * len(vocab))
    inputs = min(row_bytes(ElementType.F32, limits.max_rows * config.dim), APART_BYTES)
    return 4 * words + inputs + limits.max_logit_rows * len(_mask_bytes(vocab))


def encode_answer(times: NodeTimes, part: RankCandidates) -> bytes:
    """The answer to a STEP: float64 compute_s, wait_s, wire_s, sums [2, N]; int32 ids [N, C_local]; float32
    logits [N, C_local], target_logits [N]."""
    doubles = [[times.compute_s, times.wait_s, times.wire_s], part.sums]
    floats = [part.logits, part.target_logits]
    return b"".join([*_in_bytes(_DOUBLE, doubles), *_in_bytes(_INT, [part.ids]), *_in_bytes(_FLOAT, floats)])


def answer_bytes(wanted: LogitRows, vocab: Span) -> int:
    """Bytes of the answer of a rank with that span."""
    return 8 * _N_TIMES + len(wanted.rows) * (20 + 8 * min(wanted.n_candidates, len(vocab)))


def max_answer_bytes(limits: StepLimits, vocab: Span) -> int:
    """The largest answer to a STEP of a session."""
    return 8 * _N_TIMES + limits.max_logit_rows * (20 + 8 * min(MOST_CANDIDATES, len(vocab)))


def decode_answer(
    payload: Buffer, wanted: LogitRows, vocab: Span, sender: str
) -> tuple[NodeTimes, RankCandidates]:
    """The inverse of encode_answer. Raises PeerProtocolError on anything impossible."""

    def parse() -> tuple[NodeTimes, RankCandidates]:
        n_rows, n = len(wanted.rows), min(wanted.n_candidates, len(vocab))
        n_doubles, n_ids = _N_TIMES + 2 * n_rows, n_rows * n
        doubles = np.frombuffer(payload, _DOUBLE, n_doubles)
        ids = np.frombuffer(payload, _INT, n_ids, 8 * n_doubles).reshape(n_rows, n)
        floats = np.frombuffer(payload, _FLOAT, n_ids + n_rows, 8 * n_doubles + 4 * n_ids)
        logits = floats[:n_ids].reshape(n_rows, n)
        compute_s, wait_s, wire_s, *sums = doubles.tolist()
        _require(all(0 <= seconds < math.inf for seconds in (compute_s, wait_s, wire_s)), "times")
        _require(_within(ids, vocab.stop, least=vocab.start), "token ids")
        _require(n < 2 or not (logits[:, 1:] > logits[:, :-1]).any(), "logits")
        _require(np.fmax.reduce(floats, initial=-math.inf) < math.inf, "logits")
        _require(all(0 <= one < math.inf or math.isnan(one) for one in sums), "sums")
        return NodeTimes(compute_s=compute_s, wait_s=wait_s, wire_s=wire_s), RankCandidates(
            ids=ids,
            logits=logits,
            sums=doubles[_N_TIMES:].reshape(2, n_rows),
            target_logits=floats[n_ids:],
        )

    return parse_message("answer to a step", sender, parse)


NO_EDITS = LogitEdits(
    index=np.empty(0, np.int32),
    ids=np.empty(0, np.int32),
    scale=np.empty(0, np.float32),
    add=np.empty(0, np.float32),
)
NO_MASKS = LogitMasks(index=np.empty(0, np.int32), allowed=np.empty((0, 0), np.uint8))


def _step_counts(
    payload: bytes | bytearray, config: ModelConfig, limits: StepLimits, cache: CacheShape, vocab: Span
) -> tuple[list[int], list[int]]:
    """T, S, N, C, K, M, D, element type of the inputs, and P of each page group. Raises ValueError for what the buffers
    are not made for."""
    values: list[int] = np.frombuffer(payload, _INT, _N_COUNTS + len(cache.groups)).tolist()
    counts, pages = values[:_N_COUNTS], values[_N_COUNTS:]
    n_rows, n_sequences, n_wanted, n_candidates, n_edits, n_masks, n_columns, input_type = counts
    _require(0 < n_rows <= limits.max_rows, "number of rows")
    _require(0 < n_sequences <= n_rows, "number of sequences")
    _require(0 <= n_wanted <= min(n_rows, limits.max_logit_rows), "number of logits")
    _require(0 < n_candidates <= min(config.vocab_size, MOST_CANDIDATES), "number of candidates")
    _require(0 <= n_edits <= n_wanted * len(vocab), "number of edits")
    _require(0 <= n_masks <= n_wanted, "number of masks")
    _require(n_columns == config.dim, "width")
    _require(input_type in STORED, "type of inputs")
    for n_pages, most in zip(pages, _most_pages(limits, cache), strict=True):
        _require(0 < n_pages <= most, "number of pages")
    return counts, pages


def _most_pages(limits: StepLimits, cache: CacheShape) -> list[int]:
    """Those that a step may name of one sequence, in each group."""
    return [
        group.most_pages(limits.max_positions, limits.max_rows, cache.page_size) for group in cache.groups
    ]


def _reach(pages: Sequence[int], cache: CacheShape) -> int:
    """Positions that fit into so many pages of the group without a window, which is the first one if there is one."""
    return pages[0] * cache.page_size if cache.groups[0].window is None else _MOST_POSITIONS


def _page_tables(
    tables: Sequence[NDArray[np.int32]],
    lengths: NDArray[np.int32],
    starts: NDArray[np.int32],
    cache: CacheShape,
) -> tuple[NDArray[np.int32], ...]:
    """[S, P] of each group; positions are known to be possible. Raises ValueError for pages that are none, and where
    those of a window are too few for the rows."""
    size, shaped = cache.page_size, []
    for flat, group in zip(tables, cache.groups, strict=True):
        table = flat.reshape(len(starts), -1)
        _require(_within(table, group.n_pages), "page numbers")
        if group.window is not None:
            stops = (starts + lengths - 1) // size + 1
            _require((stops - group.first_pages(starts, size)).max() <= table.shape[1], "positions")
        shaped.append(table)
    return tuple(shaped)


def _rows(
    lengths: NDArray[np.int32], starts: NDArray[np.int32], n_rows: int, n_positions: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Position and sequence of each row, both [T]; the inverse of StepBatch.runs. One row of each text, a decode step,
    is quick: while a worker reads it the root computes already, and will wait for it. Raises ValueError."""
    numbers = np.arange(len(lengths), dtype=np.int32)
    if n_rows == len(lengths):
        _require(_within(lengths, 2, least=1), "sequence lengths")
        _require(_within(starts, n_positions), "positions")
        return starts, numbers
    _require(lengths.min() > 0 and lengths.sum(dtype=np.int64) == n_rows, "sequence lengths")
    _require(starts.min() >= 0 and (starts.astype(np.int64) + lengths).max() <= n_positions, "positions")
    first_rows = np.cumsum(lengths) - lengths
    positions = (np.arange(n_rows) + np.repeat(starts - first_rows, lengths)).astype(np.int32)
    return positions, np.repeat(numbers, lengths)


def _wanted(
    counts: Sequence[int],
    ints: Sequence[NDArray[np.int32]],
    floats: Sequence[NDArray[np.float32]],
    allowed: NDArray[np.uint8],
    vocab_size: int,
    vocab: Span,
) -> LogitRows:
    n_rows, _, n_wanted, n_candidates, n_edits, n_masks, *_ = counts
    rows, targets, edit_index, edit_ids, mask_index = ints
    temperature, scale, add = floats
    _require(_within(rows, n_rows) and _ascends(rows), "logit rows")
    _require(_within(targets, vocab_size, least=-1), "targets")
    _require(all(0 <= one < math.inf for one in temperature.tolist()), "temperature")
    if n_edits:
        _require(_within(edit_index, n_wanted) and _within(edit_ids, vocab.stop, least=vocab.start), "edits")
        _require(_ascends(np.sort(edit_index.astype(np.int64) * vocab_size + edit_ids)), "edits")
        _require(np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(add).all(), "edits")
    _require(_within(mask_index, n_wanted) and _ascends(mask_index), "masks")
    return LogitRows(
        rows=rows,
        n_candidates=n_candidates,
        temperature=temperature,
        targets=targets,
        edits=LogitEdits(index=edit_index, ids=edit_ids, scale=scale, add=add) if n_edits else None,
        masks=LogitMasks(index=mask_index, allowed=allowed) if n_masks else None,
    )


def _in_bytes(dtype: np.dtype[Any], parts: Sequence[Any]) -> list[bytes]:
    """Each array or list of numbers as elements of `dtype`."""
    return [np.asarray(part, dtype).tobytes() for part in parts]


def _split(
    payload: bytes | bytearray, dtype: np.dtype[Any], offset: int, counts: Sequence[int]
) -> list[NDArray[Any]]:
    """Arrays of `counts` elements that follow each other in the payload from `offset` on."""
    values = np.frombuffer(payload, dtype, sum(counts), offset)
    return [values[a:b] for a, b in itertools.pairwise(itertools.accumulate(counts, initial=0))]


def _require(holds: bool | np.bool_, what: str) -> None:
    if not holds:
        raise ValueError(f"impossible {what}")


def _within(values: NDArray[Any], limit: int, *, least: int = 0) -> bool:
    return not values.size or bool(values.min() >= least and values.max() < limit)


def _ascends(values: NDArray[Any]) -> bool:
    return len(values) < 2 or bool((values[1:] > values[:-1]).all())
