"""A mixture of experts: a router sends each row through few of many small feed-forwards, and their outputs are summed
with its weights (Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961).

Every rank holds a span of every expert's columns, so that work is balanced whatever the router does. The router is
whole on every rank and its arithmetic fixed to the bit, so that all ranks choose the same experts.

T rows of the step, S slots (a row at one of its experts), D model width, F width of an expert, X experts; `_local` is
this rank's span of columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from dllama.dtypes import ElementType
from dllama.model.layers.dense import Activation
from dllama.model.layers.workspace import BufferShape, LayerWeights, RoutesShape, TypeOf, Workspace
from dllama.model.limits import fault_in_sizes
from dllama.model.partial_sums import RowSums
from dllama.sharding import Along, Cut, RankSpans, Tensor


class _Buffers(NamedTuple):
    routes: RoutesShape
    activated: BufferShape  # [S, F_local]


_ROWS_OF_EXPERT = 32
"""Weights are unpacked for all rows of an expert: with 8 rows products reach 0.38 of the arithmetic peak, with 16 0.52,
with 32 0.58, with 128 0.62 (docs/log.md)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """Softmax over all experts, of which the `top_k` most probable are taken; `renormalised`: the probabilities of
    these sum to 1."""

    n_experts: int
    top_k: int
    expert_dim: int
    activation: Activation
    renormalised: bool

    @property
    def axis(self) -> str:
        return f"{self.expert_dim} expert columns"

    @property
    def wanted_rows(self) -> int:
        """Rows of a step with which products are quick."""
        return _ROWS_OF_EXPERT * self.n_experts // self.top_k

    def fault(self) -> str | None:
        """What is impossible in it, as the end of a sentence, or None."""
        fault = fault_in_sizes(n_experts=self.n_experts, ffn_dim=self.expert_dim)
        if fault is None and not 1 <= self.top_k <= self.n_experts:
            return f"{self.top_k} of {self.n_experts} experts cannot be chosen"
        return fault

    def tensors(self, dim: int, type_of: TypeOf) -> Iterator[Tensor]:
        rows, cols = Cut(self.axis, Along.ROWS), Cut(self.axis, Along.COLS)
        up, down = (self.n_experts, self.expert_dim, dim), (self.n_experts, dim, self.expert_dim)
        yield Tensor("router", (self.n_experts, dim), ElementType.F32, is_table=True)
        for name, shape, cut, group in (
            ("experts_gate", up, rows, "experts_gate_up"),
            ("experts_down", down, cols, ""),
            ("experts_up", up, rows, "experts_gate_up"),
        ):
            yield Tensor(name, shape, type_of(name), cut, group, n_chosen=self.top_k)

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> _Buffers:
        is_quantised = type_of("experts_down").is_blocked
        activated = BufferShape("activated", len(spans[self.axis]), is_quantised, per_row=self.top_k)
        return _Buffers(RoutesShape(self.n_experts, self.top_k), activated)

    def compute(self, on: Workspace, layer: LayerWeights, run: RowSums) -> None:
        """run.out [T, D] := this rank's part of the layer's output, of its columns."""
        device, n_rows = on.device, run.n_rows
        buffers = on.shapes(self, layer)
        routes, activated = on.routes(buffers.routes), on[buffers.activated]
        gate_up, down = layer.stacks["experts_gate_up"], layer.stacks["experts_down"]

        norm, router = layer.vectors["ffn_norm"], layer.tables["router"]
        device.route(routes, run.x, norm, on.eps, router, n_rows, self.renormalised)
        x = on.normed(gate_up.dtype)  # [T, D]
        device.experts_gated(activated, gate_up, x, routes, n_rows, self.activation)  # [S, F_local]
        device.experts_down(run.out, down, activated, routes, n_rows, run.adds)  # [T, D], this rank's columns

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Experts:
        """The inverse of dataclasses.asdict. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(**values | {"activation": Activation(values["activation"])})
