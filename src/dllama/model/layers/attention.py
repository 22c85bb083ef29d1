"""Softmax attention of query heads over the keys and values of the sequence (Vaswani et al. 2017), with KV heads that
groups of query heads share (Ainslie et al. 2023).

T rows of the step, D model width, H query heads, K KV heads, E head width; `_local` is this rank's span of heads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from dllama.dtypes import BLOCK, ElementType
from dllama.kernels import Buffer
from dllama.model.layers.workspace import BufferShape, CacheRows, LayerWeights, RowPlaces, TypeOf, Workspace
from dllama.model.limits import fault_in_sizes
from dllama.model.partial_sums import RowSums
from dllama.model.rope import Angles, Rope, RopeStyle
from dllama.sharding import Along, Cut, RankSpans, Tensor


class _Buffers(NamedTuple):
    qkv: BufferShape  # [T, (H_local + 2 K_local) E]
    mixed: BufferShape  # [T, H_local E], where attention cannot write what `attended` takes
    attended: BufferShape  # [T, H_local E]
    gate: BufferShape  # [T, H_local E], nothing where there is none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """`rope` None: positions are not told apart. `window`: how many of the last positions a row attends to, itself
    among them; None: all. `qk_norm`: each head of the queries and keys is normed by itself, with one weight for all.
    `sinks`: each query head has a logit that takes part in its softmax, and no value (Xiao et al. 2023,
    arXiv:2309.17453). `scale`: what the products of queries and keys are multiplied with; None: E^-1/2.
    `gated`: what attention gives is multiplied with the sigmoid of another projection, `q_gate`.
    `soft_cap` c: scores s are c tanh(s / c) (arXiv:2408.00118); None: as they are."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope: Rope | None
    window: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    sinks: bool = False
    scale: float | None = None
    gated: bool = False
    soft_cap: float | None = None

    has_states = False
    """It keeps something of each position."""

    @property
    def cached_width(self) -> int:
        """Numbers of a head that the cache keeps of each position."""
        return self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads

    @property
    def axis(self) -> str:
        return f"{self.n_heads} heads"

    def fault(self) -> str | None:
        """What is impossible in it, as the end of a sentence, or None."""
        fault = fault_in_sizes(n_heads=self.n_heads, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim)
        if fault is not None:
            return fault
        if self.n_heads % self.n_kv_heads:
            return f"{self.n_heads} query heads cannot share {self.n_kv_heads} KV heads evenly"
        if self.head_dim % 2:
            return f"head_dim is {self.head_dim}, but rope turns pairs and needs an even number"
        if self.window is not None:
            fault = fault_in_sizes(sliding_window=self.window)
        if self.scale is not None and not 1e-10 < self.scale < 1e10:
            fault = f"the scale of attention is {self.scale}, which cannot be (above 0)"
        if self.soft_cap is not None and not 1e-10 < self.soft_cap < 1e10:
            fault = f"the soft cap of attention is {self.soft_cap}, which cannot be (above 0)"
        return fault or (self.rope and self.rope.fault(self.head_dim)) or None

    @property
    def angles(self) -> Angles:
        """What turns queries and keys. Operations multiply their products with E^-1/2; another scale is a factor that
        both have half of."""
        factor = 1.0 if self.scale is None else math.sqrt(self.scale * math.sqrt(self.head_dim))
        return Angles(self.rope, self.head_dim, factor)

    @property
    def n_halves(self) -> int:
        """How many elements of a head turn in pairs (i, i + n/2)."""
        if self.rope is None or self.rope.style is not RopeStyle.HALVES:
            return 0
        return self.rope.n_rotated or self.head_dim

    def tensors(self, dim: int, type_of: TypeOf) -> Iterator[Tensor]:
        """Rows of q and k are in the order of the rope's style."""
        width, group = self.head_dim, self.group
        n_q, n_kv = self.n_heads * width, self.n_kv_heads * width
        queries, keys = Cut(self.axis, Along.ROWS, width), Cut(self.axis, Along.ROWS, width, group)
        yield Tensor("q", (n_q, dim), type_of("q"), queries, "qkv")
        yield Tensor("k", (n_kv, dim), type_of("k"), keys, "qkv")
        yield Tensor("v", (n_kv, dim), type_of("v"), keys, "qkv")
        if self.qkv_bias:
            yield _vector("q_bias", n_q, Cut(self.axis, Along.COLS, width), "qkv_bias")
            yield _vector("k_bias", n_kv, Cut(self.axis, Along.COLS, width, group), "qkv_bias")
            yield _vector("v_bias", n_kv, Cut(self.axis, Along.COLS, width, group), "qkv_bias")
        if self.gated:
            yield Tensor("q_gate", (n_q, dim), type_of("q_gate"), queries)
        yield Tensor("o", (dim, n_q), type_of("o"), Cut(self.axis, Along.COLS, width))
        if self.o_bias:
            yield _vector("o_bias", dim)
        if self.sinks:
            yield _vector("sinks", self.n_heads, Cut(self.axis, Along.COLS))
        if self.qk_norm:
            yield _vector("q_norm", width)
            yield _vector("k_norm", width)

    def cache(self, spans: RankSpans) -> CacheRows:
        """What a rank with these spans keeps: keys and values of the heads that its query heads use."""
        heads = Cut(self.axis, Along.ROWS, 1, self.group).of(spans[self.axis])
        return CacheRows(len(heads), self.head_dim)

    def states(self, spans: RankSpans) -> tuple[tuple[int, ...], ...]:
        """Nothing but what is of a position."""
        return ()

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> _Buffers:
        n_q = len(spans[self.axis]) * self.head_dim
        n_kv = self.cache(spans).n_heads * self.head_dim
        attended = BufferShape("attended", n_q, type_of("o").is_blocked)
        mixes_floats = self.gated or (attended.quantised and self.head_dim % BLOCK != 0)
        return _Buffers(
            BufferShape("qkv", n_q + 2 * n_kv),
            BufferShape("mixed", n_q) if mixes_floats else attended,
            attended,
            BufferShape("q_gate", n_q if self.gated else 0),
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
        device, n_rows, (keys, values) = on.device, run.n_rows, memory
        buffers = on.shapes(self, layer)
        qkv, mixed, attended = on.floats(buffers.qkv), on[buffers.mixed], on[buffers.attended]
        n_heads, first_head = len(on.spans[self.axis]), on.spans[self.axis].start
        n_kv_heads = self.cache(on.spans).n_heads

        on.product(qkv, layer.matrices["qkv"], on.normed, n_rows)  # [T, (H_local + 2 K_local) E]
        if self.qkv_bias:
            device.add_bias(qkv, layer.vectors["qkv_bias"], n_rows)
        if self.qk_norm:
            device.head_rms_norm(qkv, layer.vectors["q_norm"], on.eps, 0, n_heads, n_rows)
            device.head_rms_norm(qkv, layer.vectors["k_norm"], on.eps, n_heads, n_kv_heads, n_rows)
        device.rope_store(
            qkv, angles, rows.positions, rows.sequence, rows.page_table, keys, values,
            n_heads, self.n_halves, n_rows,
        )  # fmt: skip
        device.attention(
            mixed, qkv, rows.positions, rows.sequence, rows.page_table, keys, values,
            n_heads, first_head % self.group, self.group, self.window or 0, n_rows,
            sinks=layer.vectors["sinks"] if self.sinks else None,
            soft_cap=self.soft_cap or 0.0,
        )  # fmt: skip
        if self.gated:
            gate = on.floats(buffers.gate)
            on.product(gate, layer.matrices["q_gate"], on.normed, n_rows)  # [T, H_local E]
            device.sigmoid_mul(attended, on.floats(buffers.mixed), gate, 0, n_rows)
        elif buffers.mixed != buffers.attended:
            device.quantize_rows(attended, on.floats(buffers.mixed), n_rows)
        (o,) = layer.matrices["o"].matrices
        device.matmul(run.out, o, attended, n_rows, run.adds)  # [T, D], this rank's heads
        if self.o_bias and on.rank == 0:
            device.add_bias(run.out, layer.vectors["o_bias"], n_rows)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Attention:
        """The inverse of dataclasses.asdict. Raises KeyError, TypeError or ValueError on anything else."""
        rope = values["rope"]
        return cls(**values | {"rope": rope and Rope.from_json(rope)})


def _vector(name: str, n: int, cut: Cut | None = None, group: str = "") -> Tensor:
    return Tensor(name, (n,), ElementType.F32, cut, group)
