"""Latent attention on the reference device: see Device."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from dllama.kernels import oracle
from dllama.kernels.device import Buffer, MatrixStack, Rows
from dllama.kernels.host_memory import array_of
from dllama.kernels.reference_attention import Cache, Places, softmax
from dllama.kernels.reference_experts import ReferenceStack
from dllama.kernels.reference_operands import floats, need_columns, need_rows, vector
from dllama.kernels.reference_sums import SumOperations

Float32 = NDArray[np.float32]


class LatentOperations(SumOperations):
    """Those of latent attention, beside rows and sums."""

    def latent_store(
        self,
        rows: Buffer,
        weight: Buffer,
        eps: float,
        cos_sin: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        cache: Buffer,
        halves: bool,
        n_rows: int,
    ) -> None:
        source, scale, angles = (
            floats(rows, "rows", n_rows),
            vector(weight, "weight"),
            array_of(cos_sin, "cos_sin"),
        )
        places, latents = (
            Places.of(positions, sequence, page_table, n_rows),
            Cache.latents(cache, source.shape[1]),
        )
        if angles.shape[1:] != ((source.shape[1] - len(scale)) // 2, 2):
            raise ValueError("weight and cos_sin must have the columns of rows together")
        self.carry_out(lambda: _store_latents(source, scale, eps, angles, places, latents, halves))

    def latent_queries(
        self,
        content: Rows,
        absorbed: Buffer,
        queries: Buffer,
        cos_sin: Buffer,
        positions: Buffer,
        n_heads: int,
        halves: bool,
        n_rows: int,
    ) -> None:
        source, to = (
            _heads(queries, "queries", n_rows, n_heads),
            _heads(absorbed, "absorbed", n_rows, n_heads),
        )
        angles, of_rows = array_of(cos_sin, "cos_sin"), array_of(positions, "positions")
        need_rows(of_rows, "positions", n_rows)
        n_content = source.shape[2] - 2 * angles.shape[1]
        if n_content < 1 or to.shape[2] <= 2 * angles.shape[1]:
            raise ValueError("cos_sin must be of a part of each head")
        rows = floats(content, "content", n_heads * n_rows)
        need_columns(rows, "content", n_content)
        self.carry_out(lambda: _split_queries(rows, to, source, angles, of_rows[:n_rows], halves))

    def head_products(self, out: Buffer, stack: MatrixStack, x: Rows, n_rows: int) -> None:
        matrices = _stack_of_heads(stack)
        to = _heads(out, "out", n_rows, matrices.n_matrices)
        source = floats(x, "x", matrices.n_matrices * n_rows)
        need_columns(source, "x", matrices.n_in)
        if to.shape[2] < matrices.n_out:
            raise ValueError("out must have columns for the products of each head")
        self.carry_out(lambda: _multiply_heads(to, matrices, source))

    def latent_attention(
        self,
        out: Rows,
        queries: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        cache: Buffer,
        scale: float,
        n_rows: int,
    ) -> None:
        latents, places = Cache.latents(cache, None), Places.of(positions, sequence, page_table, n_rows)
        width = latents.head_dim
        n_heads = max(array_of(queries, "queries").shape[1] // width, 1)
        source = floats(queries, "queries", n_rows)
        need_columns(source, "queries", n_heads * width)
        to = floats(out, "out", n_heads * n_rows)
        if not 0 < to.shape[1] <= width:
            raise ValueError("out must have at most the columns of the cache")
        if not scale > 0:
            raise ValueError("scale must be positive")

        def operation() -> None:
            start_s = time.perf_counter()
            heads = to.reshape(n_heads, n_rows, to.shape[1])
            _attend_latents(heads, source.reshape(n_rows, n_heads, width), places, latents, scale)
            self.attention_s += time.perf_counter() - start_s

        self.carry_out(operation)


def _store_latents(
    rows: Float32, weight: Float32, eps: float, cos_sin: Float32, places: Places, cache: Cache, halves: bool
) -> None:
    """See Device.latent_store."""
    positions, n = places.positions.astype(np.int64), len(weight)
    pages = [
        page
        for run in places.runs()
        for page in places.pages(int(places.sequence[run.start]), positions[run], cache)
    ]
    if pages and positions.max() >= len(cos_sin):
        raise ValueError("positions has a position outside cos_sin")
    rows[:, :n] = oracle.rms_norm(rows[:, :n], weight, eps)
    n_halves = rows.shape[1] - n if halves else 0
    rows[:, n:] = oracle.rope(rows[:, None, n:], cos_sin[positions], n_halves)[:, 0]
    for row, page in enumerate(pages):
        cache.put(page, int(positions[row]) % cache.page_size, rows[row, None])


def _split_queries(
    content: Float32,
    absorbed: Float32,
    queries: Float32,
    cos_sin: Float32,
    positions: NDArray[np.int32],
    halves: bool,
) -> None:
    """See Device.latent_queries; queries are [T, H, N + R], absorbed [T, H, L + R]."""
    if len(positions) and not 0 <= positions.min() <= positions.max() < len(cos_sin):
        raise ValueError("positions has a position outside cos_sin")
    n = content.shape[1]
    content[:] = queries[:, :, :n].swapaxes(0, 1).reshape(content.shape)
    n_halves = queries.shape[2] - n if halves else 0
    absorbed[:, :, n - queries.shape[2] :] = oracle.rope(queries[:, :, n:], cos_sin[positions], n_halves)


def _stack_of_heads(stack: MatrixStack) -> ReferenceStack:
    if not isinstance(stack, ReferenceStack):
        raise TypeError("stack must be one of the reference device")
    return stack


def _multiply_heads(out: Float32, stack: ReferenceStack, x: Float32) -> None:
    """See Device.head_products; out is [T, H, columns]."""
    for head in range(stack.n_matrices):
        for row in range(len(out)):
            out[row, head, : stack.n_out] = stack.values(head) @ x[head * len(out) + row]


def _attend_latents(out: Float32, queries: Float32, places: Places, cache: Cache, scale: float) -> None:
    """See Device.latent_attention; queries are [T, H, L + R], out [H, T, L]."""
    for run in places.runs():
        seen = np.arange(int(places.positions[run].max()) + 1)
        pages = places.pages(int(places.sequence[run.start]), seen, cache)
        (keys,) = cache.get(pages, seen)
        for row in range(run.start, run.stop):
            visible = keys[: int(places.positions[row]) + 1]
            weights = softmax(scale * (queries[row].astype(np.float64) @ visible.T))
            out[:, row] = weights @ visible[:, : out.shape[2]]


def _heads(operand: Buffer, name: str, n_rows: int, n_heads: int) -> Float32:
    """The first rows of a float32 [T, H width] operand, [T, H, width]: the same memory."""
    rows = floats(operand, name, n_rows)
    if n_heads < 1 or rows.shape[1] % n_heads:
        raise ValueError(f"n_heads must divide the columns of {name}")
    return rows.reshape(n_rows, n_heads, rows.shape[1] // n_heads)
