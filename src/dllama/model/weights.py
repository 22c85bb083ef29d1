"""The weights of one rank, packed for its instruction set as the bytes arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dllama.errors import NumericalError
from dllama.kernels import Buffer, Device, HostView, Matrix, MatrixStack
from dllama.model.layers import LayerWeights, StackedMatrices
from dllama.model.tensors import ModelSpec
from dllama.sharding import RankSpans, Shard, Tensor, shard_of

Bytes: TypeAlias = NDArray[np.uint8]

_Place: TypeAlias = Callable[[int, Bytes], bool]
"""Puts rows of a shard, from the given one on, where they belong; False for NaN or infinity."""


class ModelWeights:
    """Memory for everything that one rank holds, filled shard by shard with `put`."""

    def __init__(self, device: Device, model: ModelSpec, spans: RankSpans) -> None:
        self._device, self._spans = device, spans
        self._places: dict[str, _Place] = {}
        self.layers: list[LayerWeights] = [
            self._weights(f"layers.{index}.", model.layer(index)) for index in range(model.config.n_layers)
        ]
        self._outer = self._weights("", model.outer)

    @property
    def outer(self) -> Mapping[str, Buffer]:
        """The vectors outside of layers, by their names."""
        return self._outer.vectors

    @property
    def head(self) -> Matrix:
        """[V_local, D]"""
        return self._outer.matrices["head"].matrices[0]

    def put(self, shard: Shard, first_row: int, rows: Bytes) -> None:
        """Packs `rows` [n, shard.row_bytes] uint8, the shard's rows from `first_row` (0 is its first).

        Raises NumericalError naming the tensor when one of them is NaN or infinite. Disjoint runs of rows may
        be put from several threads.
        """
        if not self._places[shard.name](first_row, rows):
            raise NumericalError(
                f"tensor {shard.name} holds NaN or infinity: the model's files are damaged, get them again"
            )

    def close(self) -> None:
        """Gives the memory back; to be called once, when nobody uses the weights any more."""
        self.layers.clear()
        self._places.clear()
        del self._outer

    def _weights(self, prefix: str, tensors: Iterable[Tensor]) -> LayerWeights:
        """Memory for these tensors: those of a group stand in one packed matrix, or vector, one after the other."""
        groups: dict[str, list[Shard]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.group or tensor.name, []).append(shard_of(tensor, self._spans))
        matrices, stacks, tables, vectors = {}, {}, {}, {}
        for name, shards in groups.items():
            first = shards[0].tensor
            if first.is_vector:
                vectors[name] = self._vector(prefix, shards)
            elif first.is_table:
                tables[name] = self._table(prefix, shards)
            elif first.matrix_rows:
                stacks[name] = self._of_heads(prefix, shards[0])
            elif len(first.shape) == 2:
                matrices[name] = self._stacked(prefix, shards)
            else:
                stacks[name] = self._stack(prefix, shards)
        types = {tensor.name: tensor.dtype for tensor in tensors}
        return LayerWeights(matrices, stacks, tables, vectors, types.__getitem__)

    def _vector(self, prefix: str, shards: list[Shard]) -> Buffer:
        values = self._device.buffer(sum(len(shard.cols) for shard in shards))
        view = self._device.view(values)
        first = 0
        for shard in shards:
            self._places[prefix + shard.name] = _vector_place(view, first)
            first += len(shard.cols)
        return values

    def _table(self, prefix: str, shards: list[Shard]) -> Buffer:
        """Those of a group side by side: all have as many rows."""
        values = self._device.buffer(shards[0].n_rows, sum(len(shard.cols) for shard in shards))
        view = self._device.view(values)
        first = 0
        for shard in shards:
            self._places[prefix + shard.name] = _table_place(view, slice(first, first + len(shard.cols)))
            first += len(shard.cols)
        return values

    def _stacked(self, prefix: str, shards: list[Shard]) -> StackedMatrices:
        """One packed matrix for each run of neighbours of one type."""
        matrices, first_columns = [], []
        column = 0
        for run in _runs_of_one_type(shards):
            n_out = sum(len(shard.rows) for shard in run)
            cols = run[0].cols
            packed = self._device.matrix(run[0].tensor.dtype, n_out, len(cols), cols.start)
            matrices.append(packed)
            first_columns.append(column)
            first = 0
            for shard in run:
                self._places[prefix + shard.name] = _matrix_place(packed, first)
                first += len(shard.rows)
            column += n_out
        return StackedMatrices(tuple(matrices), tuple(first_columns))

    def _of_heads(self, prefix: str, shard: Shard) -> MatrixStack:
        """The rows of one matrix, so many at a time."""
        tensor, cols = shard.tensor, shard.cols
        n_out = tensor.matrix_rows
        packed = self._device.stack(tensor.dtype, len(shard.rows) // n_out, n_out, len(cols), cols.start)
        self._places[prefix + shard.name] = _stack_place(packed, 0, 1)
        return packed

    def _stack(self, prefix: str, shards: list[Shard]) -> MatrixStack:
        """The matrices of all stacks, those of the same number side by side. All are of one type and shape."""
        first, n_parts = shards[0], len(shards)
        n_matrices = first.tensor.n_stacked * n_parts
        n_out, cols = len(first.rows), first.cols
        packed = self._device.stack(first.tensor.dtype, n_matrices, n_out, len(cols), cols.start)
        for part, shard in enumerate(shards):
            self._places[prefix + shard.name] = _stack_place(packed, part, n_parts)
        return packed


def _runs_of_one_type(shards: list[Shard]) -> list[list[Shard]]:
    runs: list[list[Shard]] = []
    for shard in shards:
        if runs and runs[-1][0].tensor.dtype is shard.tensor.dtype:
            runs[-1].append(shard)
        else:
            runs.append([shard])
    return runs


def _matrix_place(packed: Matrix, first: int) -> _Place:
    return lambda row, rows: packed.pack(first + row, rows)


def _stack_place(packed: MatrixStack, part: int, n_parts: int) -> _Place:
    """Rows are counted through all matrices of a tensor, which are every `n_parts`-th of those that are packed."""

    def place(row: int, rows: Bytes) -> bool:
        is_finite = True
        while len(rows):
            number, within = divmod(row, packed.n_out)
            some = rows[: packed.n_out - within]
            is_finite &= packed.pack(number * n_parts + part, within, some)
            row, rows = row + len(some), rows[len(some) :]
        return is_finite

    return place


def _table_place(table: HostView, cols: slice) -> _Place:
    def place(row: int, rows: Bytes) -> bool:
        part = np.ascontiguousarray(rows).view(np.float32)
        where = slice(row, row + len(part))
        table.array[where, cols] = part
        table.push(where)
        return bool(np.isfinite(part).all())

    return place


def _vector_place(vector: HostView, first: int) -> _Place:
    def place(row: int, rows: Bytes) -> bool:
        assert row == 0, "a vector is one row"
        part = np.ascontiguousarray(rows).reshape(-1).view(np.float32)
        where = slice(first, first + len(part))  # all of it, or none in a round that has nothing of it
        vector.array[where] = part
        vector.push(where)
        return bool(np.isfinite(part).all())

    return place
