"""A gated delta net (Yang et al. 2024, arXiv:2412.06464), as Qwen 3 Next has it: each head keeps a matrix from keys to
values, from which every row takes what its key had, in part, and puts its value there; queries read it. Queries, keys
and values pass a short convolution first.

A rank has a span of value heads, with the key heads that these use. What a head keeps does not grow with the text: a
page has what it was behind the page's last row (model/states.py).

T rows of the step, D model width, HV value heads, HK key heads, DV and DK their widths, W inputs of the convolution;
`_local` is this rank's span.
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
from dllama.sharding import Along, Cut, RankSpans, Tensor


class _Buffers(NamedTuple):
    projected: BufferShape  # [T, 2 HK_local DK + 2 HV_local DV + 2 HV_local]: q, k, v, z, beta, alpha
    convolved: BufferShape  # [T, 2 HK_local DK + HV_local DV]
    read: BufferShape  # [T, HV_local DV]
    gated: BufferShape  # [T, HV_local DV]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeltaNet:
    n_key_heads: int
    n_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int

    angles = None
    """It turns nothing: positions are told apart by what the state had then."""
    window = 2
    """A row needs what is behind the one before it: so it goes on from a page border with the page before that."""
    cached_width = None
    has_states = True
    """It keeps nothing of a position, but a state for each page."""

    @property
    def group(self) -> int:
        """Value heads that share one key head."""
        return self.n_value_heads // self.n_key_heads

    @property
    def axis(self) -> str:
        return f"{self.n_value_heads} value heads"

    def fault(self) -> str | None:
        """What is impossible in it, as the end of a sentence, or None."""
        heads = {"n_value_heads": self.n_value_heads, "n_key_heads": self.n_key_heads}
        widths = {"linear_key_dim": self.key_dim, "linear_value_dim": self.value_dim}
        fault = fault_in_sizes(**heads, **widths, conv_width=self.conv_width)
        if fault is None and self.n_value_heads % self.n_key_heads:
            return f"{self.n_value_heads} value heads cannot share {self.n_key_heads} key heads evenly"
        return fault

    def tensors(self, dim: int, type_of: TypeOf) -> Iterator[Tensor]:
        """Value heads that share a key head are neighbours. Convolutions have a row for each input, oldest first."""
        values = Cut(self.axis, Along.ROWS, self.value_dim)
        keys = Cut(self.axis, Along.ROWS, self.key_dim, self.group)
        heads = Cut(self.axis, Along.ROWS)
        n_k, n_v = self.n_key_heads * self.key_dim, self.n_value_heads * self.value_dim
        for name, n, cut in (
            ("delta_q", n_k, keys),
            ("delta_k", n_k, keys),
            ("delta_v", n_v, values),
            ("delta_z", n_v, values),
            ("delta_beta", self.n_value_heads, heads),
            ("delta_alpha", self.n_value_heads, heads),
        ):
            yield Tensor(name, (n, dim), type_of(name), cut, "delta_in")
        for name, n, cut in (("conv_q", n_k, keys), ("conv_k", n_k, keys), ("conv_v", n_v, values)):
            of_cols = dataclasses.replace(cut, along=Along.COLS)
            yield Tensor(name, (self.conv_width, n), ElementType.F32, of_cols, "conv", is_table=True)
        for name in ("log_rate", "dt_bias"):
            yield Tensor(name, (self.n_value_heads,), ElementType.F32, Cut(self.axis, Along.COLS))
        yield Tensor(
            "delta_out", (dim, n_v), type_of("delta_out"), dataclasses.replace(values, along=Along.COLS)
        )
        yield Tensor("delta_norm", (self.value_dim,), ElementType.F32)

    def cache(self, spans: RankSpans) -> CacheRows:
        """Nothing of a position."""
        return CacheRows(0, 0)

    def states(self, spans: RankSpans) -> tuple[tuple[int, ...], ...]:
        """What a rank with these spans keeps of each page: the last inputs of the convolution [W - 1, channels],
        and the matrices of its heads [HV_local, DK, DV]."""
        n_heads, _ = self._heads(spans)
        return (
            (self.conv_width - 1, self._n_channels(spans)),
            (n_heads, self.key_dim, self.value_dim),
        )

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> _Buffers:
        (n_heads, _), n_channels = self._heads(spans), self._n_channels(spans)
        n = n_heads * self.value_dim
        return _Buffers(
            BufferShape("projected", n_channels + n + 2 * n_heads),
            BufferShape("convolved", n_channels),
            BufferShape("read", n),
            BufferShape("attended", n, type_of("delta_out").is_blocked),
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
        """run.out [T, D] := this rank's part of the layer's output, of its heads; `memory` are its states."""
        device, n_rows, (inputs, state) = on.device, run.n_rows, memory
        buffers = on.shapes(self, layer)
        projected, convolved, read = (on.floats(buffer) for buffer in buffers[:3])
        gated = on[buffers.gated]
        n_channels, n_values = buffers.convolved.n, buffers.read.n
        first_head = on.spans[self.axis].start

        on.product(projected, layer.matrices["delta_in"], on.normed, n_rows)
        device.causal_conv(
            convolved, projected, layer.tables["conv"], inputs,
            rows.positions, rows.sequence, rows.page_table, rows.page_size, n_rows,
        )  # fmt: skip
        device.delta_rule(
            read, convolved, projected, n_channels + n_values, layer.vectors["log_rate"], layer.vectors["dt_bias"],
            state, rows.positions, rows.sequence, rows.page_table, rows.page_size,
            first_head % self.group, self.group, n_rows,
        )  # fmt: skip
        norm = layer.vectors["delta_norm"]
        device.gated_norm(gated, read, norm, on.eps, projected, n_channels, n_rows)  # norm(read) * silu(z)
        (out,) = layer.matrices["delta_out"].matrices
        device.matmul(run.out, out, gated, n_rows, run.adds)  # [T, D], this rank's heads

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DeltaNet:
        """The inverse of dataclasses.asdict. Raises TypeError on anything else."""
        return cls(**values)

    def _heads(self, spans: RankSpans) -> tuple[int, int]:
        """Value heads, and key heads that they use."""
        of = spans[self.axis]
        return len(of), len(Cut(self.axis, Along.ROWS, 1, self.group).of(of))

    def _n_channels(self, spans: RankSpans) -> int:
        n_heads, n_key_heads = self._heads(spans)
        return 2 * n_key_heads * self.key_dim + n_heads * self.value_dim
