"""The mean square of each input of each matrix, over the tokens of a text, layer by layer.

Only one layer is in memory at a time, in q80: what the text has become behind each layer goes on to the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.calibration.watch import WatchingCpu
from dllama.checkpoint import Checkpoint
from dllama.dtypes import ElementType
from dllama.errors import NumericalError
from dllama.fabric.local import local_fabrics
from dllama.model import (
    PAGE_SIZE,
    CacheShape,
    KvCache,
    LogitRows,
    ModelSpec,
    ModelWeights,
    PageGroup,
    ReducePlan,
    StepBatch,
    StepLimits,
    Transformer,
    page_windows,
)
from dllama.sharding import RankSpans, plan_spans, shard_of

Floats: TypeAlias = NDArray[np.float32]
OnProgress: TypeAlias = Callable[[int, int], None]
"""Layers done, and layers in all."""

_MAX_ROWS = 256
"""Rows of a step: enough for products to be computed at full speed."""
_WINDOW = 2048
"""Tokens that are read in one piece; a longer text is read in several."""
_PUT_BYTES = 1 << 22


def calibration_text() -> str:
    """A few thousand tokens of prose, dialogue, lists, tables, code and letters."""
    return importlib.resources.files("dllama.calibration").joinpath("text.txt").read_text("utf-8")


def text_bytes(n_tokens: int, dim: int) -> int:
    """Memory that a text takes while it is read: of each token what goes into a layer, and what comes out normed."""
    return 2 * 4 * n_tokens * dim


def collect_importance(
    checkpoint: Checkpoint,
    n_threads: int,
    token_ids: Sequence[int],
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Floats]:
    """By the names of matrices, [n_cols] of each, or [n_experts, n_cols].

    `checkpoint` is one that was opened for q80, `token_ids` are one at least. Matrices that no row has come to have no
    entry. Raises NumericalError where the model computes NaN or infinity.
    """
    assert token_ids
    x = checkpoint.embed(token_ids)  # [N, D]
    importance: dict[str, Floats] = {}
    n_layers = checkpoint.config.n_layers
    for index in range(n_layers):
        with _layer(checkpoint, index, n_threads) as layer:
            normed = layer.run(x)
            if not np.isfinite(normed).all():
                raise NumericalError(
                    f"{checkpoint.path}: layer {index} computes NaN or infinity: the model's files are damaged,"
                    " get them again"
                )
            importance |= {f"layers.{index}.{name}": values for name, values in layer.mean_squares()}
        checkpoint.let_go()
        on_progress(index + 1, n_layers)
    importance["head"] = np.square(normed, dtype=np.float64).mean(axis=0).astype(np.float32)
    checkpoint.check()
    return importance


class _Layer:
    """A model of one layer."""

    def __init__(
        self,
        model: ModelSpec,
        weights: ModelWeights,
        cache: CacheShape,
        watch: WatchingCpu,
        transformer: Transformer,
    ) -> None:
        self._model, self._weights, self._cache = model, weights, cache
        self._watch, self._transformer = watch, transformer

    def run(self, x: Floats) -> Floats:
        """x [N, D] := what it is behind the layer; returns it after the model's final norm."""
        normed = np.empty_like(x)
        for first, start, stop in _steps(len(x)):
            self._transformer.forward(_batch(self._cache, first, start, stop), x[start:stop])
            x[start:stop] = self._transformer.residual
            normed[start:stop] = self._transformer.hidden()
        return normed

    def mean_squares(self) -> Iterator[tuple[str, Floats]]:
        (layer,) = self._weights.layers
        for tensor in self._model.layer(0):
            group = tensor.group or tensor.name
            stack, stacked = layer.stacks.get(group), layer.matrices.get(group)
            for matrix in [stack] if stack else stacked.matrices if stacked else []:
                values = self._watch.mean_squares(matrix)
                if values is not None:
                    yield tensor.name, values


@contextlib.contextmanager
def _layer(checkpoint: Checkpoint, index: int, n_threads: int) -> Iterator[_Layer]:
    """Layer `index` alone, loaded."""
    config = checkpoint.config
    scale = config.embedding_scale if index == 0 else 1.0  # what comes into others is no embedded token
    config = dataclasses.replace(config, layer_kinds=(config.layer_kinds[index],), embedding_scale=scale)
    model = ModelSpec.uniform(config, ElementType.Q80)
    (spans,) = plan_spans(model.axes, (1.0,)).ranks
    (fabric,) = local_fabrics(1)
    limits = StepLimits(
        max_rows=_MAX_ROWS, max_logit_rows=1, max_positions=_WINDOW, wire=ElementType.F32, timeout_s=1.0
    )
    device = WatchingCpu(n_threads)
    (window,) = page_windows(config)
    group = PageGroup(window=window, n_pages=_WINDOW // PAGE_SIZE)
    shape = CacheShape(groups=(group,), page_size=PAGE_SIZE, dtype=ElementType.F16)
    cache, weights = KvCache(device, config, spans, shape), ModelWeights(device, model, spans)
    transformer = Transformer(device, model, spans, weights, cache, fabric, limits, ReducePlan())
    try:
        _load(checkpoint, index, model, spans, weights)
        yield _Layer(model, weights, shape, device, transformer)
    finally:
        transformer.close()
        weights.close()
        cache.close()


def _load(
    checkpoint: Checkpoint, index: int, model: ModelSpec, spans: RankSpans, weights: ModelWeights
) -> None:
    """All but the head, which is not computed."""
    for tensor in model.held():
        name = tensor.name.replace("layers.0.", f"layers.{index}.", 1)
        if name == "head":
            continue
        shard = shard_of(tensor, spans)
        n_at_once = max(1, _PUT_BYTES // shard.row_bytes)
        for row in range(0, shard.n_rows, n_at_once):
            rows = (row, min(row + n_at_once, shard.n_rows))
            out = np.empty((rows[1] - rows[0], shard.row_bytes), np.uint8)
            weights.put(shard, row, checkpoint.read(name, rows, (0, tensor.n_cols), out))


def _steps(n: int) -> Iterator[tuple[int, int, int]]:
    """The rows `start` to `stop` of each step, and where the window that they are part of begins."""
    for first in range(0, n, _WINDOW):
        for start in range(first, min(n, first + _WINDOW), _MAX_ROWS):
            yield first, start, min(start + _MAX_ROWS, first + _WINDOW, n)


def _batch(cache: CacheShape, first: int, start: int, stop: int) -> StepBatch:
    positions = np.arange(start - first, stop - first, dtype=np.int32)
    pages = cache.lone_pages(start - first, stop - start)
    return StepBatch(
        token_ids=np.zeros(stop - start, np.int32),
        positions=positions,
        sequence=np.zeros(stop - start, np.int32),
        page_tables=tuple(np.asarray([of_group], np.int32) for of_group in pages),
        wanted=LogitRows.greedy(np.empty(0, np.int32)),
    )
