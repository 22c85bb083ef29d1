"""The feed-forward of every row: down(act(gate) * up) (Shazeer 2020, arXiv:2002.05202).

T rows of the step, D model width, F FFN width; `_local` is this rank's span of columns.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any, NamedTuple

from dllama.dtypes import ElementType
from dllama.model.layers.workspace import BufferShape, LayerWeights, TypeOf, Workspace
from dllama.model.limits import fault_in_sizes
from dllama.model.partial_sums import RowSums
from dllama.sharding import Along, Cut, RankSpans, Tensor


class Activation(enum.StrEnum):
    SILU = "silu"
    GELU = "gelu"
    SWIGLU_OAI = "swiglu_oai"
    """gpt-oss's: both inputs are clamped, see Device.silu_mul."""


class DenseBuffers(NamedTuple):
    gate_up: BufferShape  # [T, 2 F_local]
    activated: BufferShape  # [T, F_local]
    ungated: BufferShape | None  # [T, F_local]
    gate: BufferShape | None  # [T, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense:
    """`gated`: what it gives is multiplied with the sigmoid of a number of the row, its product with `out_gate`."""

    ffn_dim: int
    activation: Activation
    gated: bool = False

    @property
    def axis(self) -> str:
        return f"{self.ffn_dim} FFN columns"

    @property
    def wanted_rows(self) -> int:
        """Rows of a step with which products are quick, beyond what threads have use for."""
        return 0

    def fault(self) -> str | None:
        """What is impossible in it, as the end of a sentence, or None."""
        return fault_in_sizes(ffn_dim=self.ffn_dim)

    def tensors(self, dim: int, type_of: TypeOf) -> Iterator[Tensor]:
        rows, cols = Cut(self.axis, Along.ROWS), Cut(self.axis, Along.COLS)
        yield Tensor("gate", (self.ffn_dim, dim), type_of("gate"), rows, "gate_up")
        yield Tensor("down", (dim, self.ffn_dim), type_of("down"), cols)
        yield Tensor("up", (self.ffn_dim, dim), type_of("up"), rows, "gate_up")
        if self.gated:  # one row, in which a rounding would be one of all that it gives
            yield Tensor("out_gate", (1, dim), ElementType.F32)

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> DenseBuffers:
        n = len(spans[self.axis])
        return DenseBuffers(
            BufferShape("gate_up", 2 * n),
            BufferShape("activated", n, type_of("down").is_blocked),
            BufferShape("ungated", n) if self.gated else None,
            BufferShape("out_gate", 1) if self.gated else None,
        )

    def compute(self, on: Workspace, layer: LayerWeights, run: RowSums) -> None:
        """run.out [T, D] := this rank's part of the layer's output, of its columns."""
        self.product(on, layer, on.shapes(self, layer), run, adds=run.adds)

    def product(
        self,
        on: Workspace,
        layer: LayerWeights,
        buffers: DenseBuffers,
        run: RowSums,
        *,
        adds: bool,
        prefix: str = "",
    ) -> None:
        """run.out [T, D] := that part, or += with `adds`. The names of its tensors begin with `prefix`."""
        device, n_rows = on.device, run.n_rows
        gate_up, activated = on.floats(buffers.gate_up), on[buffers.activated]
        weights = layer.matrices[f"{prefix}gate_up"]

        if buffers.ungated is not None and buffers.gate is not None:
            ungated, gate = on.floats(buffers.ungated), on.floats(buffers.gate)
            on.product(gate_up, weights, on.normed, n_rows)
            device.silu_mul(ungated, gate_up, n_rows, self.activation)
            on.product(gate, layer.matrices[f"{prefix}out_gate"], on.normed, n_rows)  # [T, 1]
            device.sigmoid_scale(activated, ungated, gate, n_rows)
        elif (
            len(weights.matrices) == 1
        ):  # act(gate) * up: [T, F_local], by way of [T, 2 F_local] for a few rows
            (matrix,) = weights.matrices
            device.gated_matmul(activated, matrix, on.normed(matrix.dtype), gate_up, n_rows, self.activation)
        else:
            on.product(gate_up, weights, on.normed, n_rows)
            device.silu_mul(activated, gate_up, n_rows, self.activation)
        (down,) = layer.matrices[f"{prefix}down"].matrices
        device.matmul(run.out, down, activated, n_rows, adds)  # [T, D], this rank's columns

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Dense:
        """The inverse of dataclasses.asdict. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(**values | {"activation": Activation(values["activation"])})
