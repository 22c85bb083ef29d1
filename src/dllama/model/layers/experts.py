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
from dllama.kernels import Buffer
from dllama.model.layers.dense import Activation, Dense, DenseBuffers
from dllama.model.layers.workspace import BufferShape, LayerWeights, RoutesShape, TypeOf, Workspace
from dllama.model.limits import fault_in_sizes
from dllama.model.partial_sums import RowSums
from dllama.sharding import Along, Cut, RankSpans, Tensor


class _Buffers(NamedTuple):
    routes: RoutesShape
    activated: BufferShape  # [S, F_local]
    shared_gate_up: BufferShape | None
    shared_activated: BufferShape | None
    shared_ungated: BufferShape | None
    shared_gate: BufferShape | None


_SHARED = "shared_"
"""Before the names of the tensors of a shared expert."""


_ROWS_OF_EXPERT = 32
"""Weights are unpacked for all rows of an expert: with 8 rows products reach 0.38 of the arithmetic peak, with 16 0.52,
with 32 0.58, with 128 0.62 (docs/log.md)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """The `top_k` experts of the largest scores, softmax over all or `sigmoid` of each, are taken, with weights of
    `scale` times these scores; `renormalised`: divided by their sum. `choice_bias`: a vector is added to sigmoids for
    the choice alone (Wang et al. 2024, arXiv:2408.15664). `router_bias`: one is added to the logits.
    `biases`: every projection of every expert has one.

    With `n_groups` of neighbours those of the `top_groups` best groups are there to choose, of which each counts as
    the sum of its `group_best` best scores (DeepSeek-V3, arXiv:2412.19437). `shared`: an expert that all rows go
    through besides.
    """

    n_experts: int
    top_k: int
    expert_dim: int
    activation: Activation
    renormalised: bool
    sigmoid: bool = False
    choice_bias: bool = False
    router_bias: bool = False
    biases: bool = False
    n_groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    scale: float = 1.0
    shared: Dense | None = None

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
        if fault is None and not 1e-10 < self.scale < 1e10:
            return f"the weights of experts are scaled by {self.scale}, which cannot be (above 0)"
        if fault is None and self.choice_bias and not self.sigmoid:
            return "a bias for the choice of experts is known with sigmoids only"
        return fault or self._fault_in_groups() or (self.shared and self.shared.fault()) or None

    def _fault_in_groups(self) -> str | None:
        if self.n_groups < 1 or self.n_experts % self.n_groups:
            return f"{self.n_experts} experts cannot be {self.n_groups} groups"
        width = self.n_experts // self.n_groups
        if not 1 <= self.top_groups <= self.n_groups or self.top_groups * width < self.top_k:
            return f"{self.top_groups} of {self.n_groups} groups are not enough for {self.top_k} experts"
        if not 1 <= self.group_best <= (min(2, width) if self.sigmoid else 1):
            return f"groups of {width} experts cannot be compared by {self.group_best} of their scores"
        return None

    def tensors(self, dim: int, type_of: TypeOf) -> Iterator[Tensor]:
        rows, cols = Cut(self.axis, Along.ROWS), Cut(self.axis, Along.COLS)
        up, down = (self.n_experts, self.expert_dim, dim), (self.n_experts, dim, self.expert_dim)
        yield Tensor("router", (self.n_experts, dim), ElementType.F32, is_table=True)
        if self.choice_bias:
            yield Tensor("router_choice_bias", (self.n_experts,), ElementType.F32)
        if self.router_bias:
            yield Tensor("router_bias", (self.n_experts,), ElementType.F32)
        if self.biases:
            of_columns = (self.n_experts, self.expert_dim)
            yield Tensor("experts_gate_bias", of_columns, ElementType.F32, cut=cols, is_table=True)
            yield Tensor("experts_up_bias", of_columns, ElementType.F32, cut=cols, is_table=True)
            yield Tensor("experts_down_bias", (self.n_experts, dim), ElementType.F32, is_table=True)
        for name, shape, cut, group in (
            ("experts_gate", up, rows, "experts_gate_up"),
            ("experts_down", down, cols, ""),
            ("experts_up", up, rows, "experts_gate_up"),
        ):
            yield Tensor(name, shape, type_of(name), cut, group, n_chosen=self.top_k)
        if self.shared is not None:
            for tensor in self.shared.tensors(dim, _of_shared(type_of)):
                group = tensor.group and _SHARED + tensor.group
                yield dataclasses.replace(tensor, name=_SHARED + tensor.name, group=group)

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> _Buffers:
        is_quantised = type_of("experts_down").is_blocked
        activated = BufferShape("activated", len(spans[self.axis]), is_quantised, per_row=self.top_k)
        shared = self.shared and self.shared.buffers(dim, spans, _of_shared(type_of))
        return _Buffers(RoutesShape(self.n_experts, self.top_k), activated, *(shared or [None] * 4))

    def compute(self, on: Workspace, layer: LayerWeights, run: RowSums) -> None:
        """run.out [T, D] := this rank's part of the layer's output, of its columns."""
        device, n_rows = on.device, run.n_rows
        buffers = on.shapes(self, layer)
        routes, activated = on.routes(buffers.routes), on[buffers.activated]
        gate_up, down = layer.stacks["experts_gate_up"], layer.stacks["experts_down"]

        norm, router = layer.vectors["ffn_norm"], layer.tables["router"]
        device.route(
            routes, run.x, norm, on.eps, router, n_rows, self.renormalised, self.sigmoid,
            layer.vectors["router_choice_bias"] if self.choice_bias else None,
            self.n_groups, self.top_groups, self.group_best, self.scale,
            layer.vectors["router_bias"] if self.router_bias else None,
        )  # fmt: skip
        x = on.normed(gate_up.dtype)  # [T, D]
        gate_bias, up_bias, down_bias = self._biases(on, layer)
        device.experts_gated(  # [S, F_local]
            activated, gate_up, x, routes, n_rows, self.activation, gate_bias, up_bias
        )
        device.experts_down(  # [T, D], this rank's columns
            run.out, down, activated, routes, n_rows, run.adds, down_bias
        )
        if self.shared is not None:
            assert buffers.shared_gate_up is not None
            assert buffers.shared_activated is not None
            of_shared = DenseBuffers(
                buffers.shared_gate_up, buffers.shared_activated, buffers.shared_ungated, buffers.shared_gate
            )
            self.shared.product(on, layer, of_shared, run, adds=True, prefix=_SHARED)

    def _biases(
        self, on: Workspace, layer: LayerWeights
    ) -> tuple[Buffer | None, Buffer | None, Buffer | None]:
        """Of gate, up and down; the last is in the sum once."""
        if not self.biases:
            return None, None, None
        gate, up, down = (layer.tables[f"experts_{part}_bias"] for part in ("gate", "up", "down"))
        return gate, up, down if on.rank == 0 else None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Experts:
        """The inverse of dataclasses.asdict. Raises KeyError, TypeError or ValueError on anything else."""
        shared = values["shared"]
        return cls(
            **values
            | {
                "activation": Activation(values["activation"]),
                "shared": shared and Dense.from_json(shared),
            }
        )


def _of_shared(type_of: TypeOf) -> TypeOf:
    return lambda name: type_of(_SHARED + name)
