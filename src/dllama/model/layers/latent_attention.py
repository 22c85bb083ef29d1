"""Attention over latents (DeepSeek-AI 2024, arXiv:2405.04434): what is kept of a position is one row that all heads
share, a latent of which keys and values are made, and a part of the keys that has a rope.

Keys are never made: a query is multiplied with the matrix that would make them, and meets the latent itself; what
attention takes of the latents becomes values afterwards (section 2.1.2 there, "absorbed"). A rank has a span of query
heads; the latents, and what makes them, every rank has whole.

T rows of the step, D model width, H query heads, N elements of a head without a rope, R with one, V of a value, L of a
latent, Q of a query's own latent; `_local` is this rank's span of heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from dllama.dtypes import ElementType
from dllama.kernels import Buffer
from dllama.model.layers.workspace import BufferShape, CacheRows, LayerWeights, RowPlaces, TypeOf, Workspace
from dllama.model.limits import fault_in_sizes
from dllama.model.partial_sums import RowSums
from dllama.model.rope import Angles, Rope, RopeStyle
from dllama.sharding import Along, Cut, RankSpans, Tensor

_LATENT_EPS = 1e-6
"""Of the norms of latents, whatever the model's other norms have (DeepseekV3Attention of transformers)."""


class _Buffers(NamedTuple):
    q_a: BufferShape | None  # [T, Q]
    q_latent: BufferShape | None  # [T, Q], normed
    q: BufferShape  # [T, H_local (N + R)]
    kv: BufferShape  # [T, L + R]
    content: BufferShape  # [H_local T, N]
    absorbed: BufferShape  # [T, H_local (L + R)]
    mixed: BufferShape  # [H_local T, L]
    values: BufferShape  # [T, H_local V]
    attended: BufferShape  # [T, H_local V], as `o` takes it


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """`q_rank`: Q, None where queries are made without a latent. `scale`: what the products of queries and keys are
    multiplied with."""

    n_heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope: Rope
    scale: float

    has_states = False
    """All that it keeps of a sequence is in pages."""
    window = None

    @property
    def axis(self) -> str:
        return f"{self.n_heads} heads"

    @property
    def cached_width(self) -> int:
        """Numbers that the cache keeps of each position."""
        return self.kv_rank + self.rope_dim

    @property
    def angles(self) -> Angles:
        return Angles(self.rope, self.rope_dim)

    def fault(self) -> str | None:
        """What is impossible in it, as the end of a sentence, or None."""
        widths = {
            "kv_lora_rank": self.kv_rank,
            "qk_nope_head_dim": self.nope_dim,
            "v_head_dim": self.value_dim,
        }
        widths |= {} if self.q_rank is None else {"q_lora_rank": self.q_rank}
        fault = fault_in_sizes(n_heads=self.n_heads, qk_rope_head_dim=self.rope_dim, **widths)
        if fault is None and self.rope_dim % 2:
            return f"qk_rope_head_dim is {self.rope_dim}, but rope turns pairs and needs an even number"
        if fault is None and not 1e-10 < self.scale < 1e10:
            return f"the scale of attention is {self.scale}, which cannot be (above 0)"
        return fault or self.rope.fault(self.rope_dim)

    def tensors(self, dim: int, type_of: TypeOf) -> Iterator[Tensor]:
        """`k_b` has for each head the columns of what makes its keys as rows: [L, N] of them."""
        query_dim = self.nope_dim + self.rope_dim
        heads = Cut(self.axis, Along.ROWS, query_dim)
        if self.q_rank is None:
            yield Tensor("q", (self.n_heads * query_dim, dim), type_of("q"), heads)
        else:
            yield Tensor("q_a", (self.q_rank, dim), type_of("q_a"))
            yield Tensor("q_b", (self.n_heads * query_dim, self.q_rank), type_of("q_b"), heads)
            yield Tensor("q_a_norm", (self.q_rank,), ElementType.F32)
        yield Tensor("kv_a", (self.kv_rank + self.rope_dim, dim), type_of("kv_a"))
        yield Tensor("kv_a_norm", (self.kv_rank,), ElementType.F32)
        for name, n_out, n_in in (
            ("k_b", self.kv_rank, self.nope_dim),
            ("v_b", self.value_dim, self.kv_rank),
        ):
            cut = Cut(self.axis, Along.ROWS, n_out)
            yield Tensor(name, (self.n_heads * n_out, n_in), type_of(name), cut, matrix_rows=n_out)
        n_values = self.n_heads * self.value_dim
        yield Tensor("o", (dim, n_values), type_of("o"), Cut(self.axis, Along.COLS, self.value_dim))

    def cache(self, spans: RankSpans) -> CacheRows:
        """One row for all heads, which every rank keeps: values are a part of it."""
        return CacheRows(1, self.cached_width, n_kept=1)

    def states(self, spans: RankSpans) -> tuple[tuple[int, ...], ...]:
        """Nothing but what is in pages."""
        return ()

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> _Buffers:
        n_heads = len(spans[self.axis])
        q_a = q_latent = None
        if self.q_rank is not None:
            q_a = BufferShape("q_a", self.q_rank)
            q_latent = BufferShape("q_latent", self.q_rank, type_of("q_b").is_blocked)
        attended = BufferShape("attended", n_heads * self.value_dim, type_of("o").is_blocked)
        values = BufferShape("values", attended.n) if attended.quantised else attended
        return _Buffers(
            q_a,
            q_latent,
            BufferShape("q", n_heads * (self.nope_dim + self.rope_dim)),
            BufferShape("latent", self.cached_width),
            BufferShape("content", self.nope_dim, type_of("k_b").is_blocked, per_row=n_heads),
            BufferShape("absorbed", n_heads * self.cached_width),
            BufferShape("mixed", self.kv_rank, type_of("v_b").is_blocked, per_row=n_heads),
            values,
            attended,
        )

    def compute(
        self,
        on: Workspace,
        layer: LayerWeights,
        memory: tuple[Buffer, ...],
        angles: Buffer | None,
        run: RowSums,
        rows: RowPlaces,
    ) -> None:
        """run.out [T, D] := this rank's part of the layer's output, of its heads; `memory` is its cache, `angles` are
        the rope's."""
        assert angles is not None
        device, n_rows, (latents,) = on.device, run.n_rows, memory
        buffers = on.shapes(self, layer)
        q, kv, absorbed, values = (
            on.floats(buffer) for buffer in (buffers.q, buffers.kv, buffers.absorbed, buffers.values)
        )
        content, mixed, attended = on[buffers.content], on[buffers.mixed], on[buffers.attended]
        n_heads, halves = len(on.spans[self.axis]), self.rope.style is RopeStyle.HALVES
        places = rows.positions, rows.sequence, rows.page_table

        self._make_queries(q, buffers, on, layer, n_rows)  # [T, H_local (N + R)]
        on.product(kv, layer.matrices["kv_a"], on.normed, n_rows)  # [T, L + R]
        kv_norm = layer.vectors["kv_a_norm"]
        device.latent_store(kv, kv_norm, _LATENT_EPS, angles, *places, latents, halves, n_rows)
        device.latent_queries(content, absorbed, q, angles, rows.positions, n_heads, halves, n_rows)
        device.head_products(absorbed, layer.stacks["k_b"], content, n_rows)  # [T, H_local (L + R)]
        device.latent_attention(mixed, absorbed, *places, latents, self.scale, n_rows)  # [H_local T, L]
        device.head_products(values, layer.stacks["v_b"], mixed, n_rows)  # [T, H_local V]
        if attended is not values:
            device.quantize_rows(attended, values, n_rows)
        (o,) = layer.matrices["o"].matrices
        device.matmul(run.out, o, attended, n_rows, run.adds)  # [T, D], this rank's heads

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LatentAttention:
        """The inverse of dataclasses.asdict. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(**values | {"rope": Rope.from_json(values["rope"])})

    def _make_queries(
        self, q: Buffer, buffers: _Buffers, on: Workspace, layer: LayerWeights, n_rows: int
    ) -> None:
        if buffers.q_a is None or buffers.q_latent is None:
            on.product(q, layer.matrices["q"], on.normed, n_rows)
            return
        q_a, q_latent = on.floats(buffers.q_a), on[buffers.q_latent]
        on.product(q_a, layer.matrices["q_a"], on.normed, n_rows)
        on.device.rms_norm(q_latent, q_a, layer.vectors["q_a_norm"], _LATENT_EPS, n_rows)
        (q_b,) = layer.matrices["q_b"].matrices
        on.device.matmul(q, q_b, q_latent, n_rows)
