"""The all-reduce behind each column-cut projection: partial sums, quantised on the wire, added in rank order."""

from __future__ import annotations

import dataclasses

import numpy as np

from dllama.dtypes import ElementType
from dllama.fabric import Fabric
from dllama.kernels import Buffer, Device, Rows
from dllama.model.all_reduce import (
    Bytes,
    Direct,
    ReducePlan,
    Reduction,
    Scattered,
    buffer_bytes,
    wire_row_bytes,
)
from dllama.model.courier import Courier, Transfer
from dllama.model.inputs import Inputs
from dllama.model.norm import Norm
from dllama.model.trace import SpanName, Trace

_HALF_ROWS = 16
"""Rows that matrix products take together: the first half of a step is a multiple."""


class PartialSums:
    """Adds every rank's partial sums to the residual stream, so that all ranks hold the same bits.

    With `wire` Q80 every rank's own part is used as the others see it: quantised. One rank alone adds its products
    as they are. The parts of a sum are added to each other before they are added to the residual.
    """

    def __init__(
        self,
        device: Device,
        fabric: Fabric,
        x: Buffer,
        partial: Buffer,
        wire: ElementType,
        plan: ReducePlan,
        timeout_s: float,
        trace: Trace,
        *,
        input_scale: float = 1.0,
        norms: bool = False,
    ) -> None:
        """`x` [max_rows, D] is the residual stream, `partial` [max_rows, D] this rank's part of what is to be added.
        Inputs are multiplied with `input_scale`. `norms`: sums may be normed before they are added (see RowSums.add),
        so one rank alone does not add its products at once."""
        courier = Courier(timeout_s, trace)
        self._reducer = _Reducer(device, fabric, wire, plan, courier, input_scale, norms)
        self._x, self._partial = x, partial
        self._row_bytes = wire_row_bytes(x.shape[1], wire)
        n_rows = x.shape[0] + _HALF_ROWS if fabric.n_ranks > 1 else 0
        self._memory = np.empty(buffer_bytes(n_rows * self._row_bytes, fabric.n_ranks), np.uint8)

    def close(self) -> None:
        """Ends the thread and lets go of the buffers; to be called when the fabric has been closed."""
        self._reducer.courier.close()
        del self._memory, self._x, self._partial

    @property
    def wait_s(self) -> float:
        """Time that computing has waited for exchanges so far."""
        return self._reducer.courier.wait_s

    def runs(self, n_rows: int) -> tuple[RowSums, ...]:
        """The rows of a step in one run, or in two that are to be computed in turn: one's sums travel while the
        other is computed. The later one attends to the earlier one's keys."""
        n_ranks, overlap_bytes = self._reducer.fabric.n_ranks, self._reducer.plan.overlap_bytes
        is_large = overlap_bytes is not None and n_rows * self._row_bytes >= overlap_bytes
        if n_ranks == 1 or not is_large or n_rows < 2 * _HALF_ROWS:
            return (self._run(slice(0, n_rows), n_rows, self._memory),)
        half = (n_rows + _HALF_ROWS) // (2 * _HALF_ROWS) * _HALF_ROWS
        memory = self._memory[buffer_bytes(half * self._row_bytes, n_ranks) :]
        return (
            self._run(slice(0, half), n_rows, self._memory),
            self._run(slice(half, n_rows), n_rows, memory),
        )

    def _run(self, rows: slice, n_rows: int, memory: Bytes) -> RowSums:
        """The sums of these rows of a step that has `n_rows` in all."""
        device = self._reducer.device
        x, partial = device.part(self._x, rows), device.part(self._partial, slice(0, rows.stop - rows.start))
        return RowSums(self._reducer, x, partial, rows, n_rows, memory)


class RowSums:
    """What some rows of a step get from other ranks: `bring` their inputs; then, for each sum, `encode` and `send`
    the own part, `wait` for the others' and `add` all to the residual."""

    def __init__(
        self,
        reducer: _Reducer,
        x: Buffer,
        partial: Buffer,
        rows: slice,
        n_step_rows: int,
        memory: Bytes,
    ) -> None:
        """`x` [T, D] is the residual of `rows` of a step of `n_step_rows`, `partial` [T, D] what `encode` takes.

        `out` is where products go: `partial`, or, of one rank alone, which `adds` them at once, `x`.
        """
        device = reducer.device
        self.x = x
        self.rows = rows
        self.n_rows, dim = x.shape
        self._reducer = reducer
        self._is_q80 = reducer.wire is ElementType.Q80
        self._residual = device.view(x)
        self._overlaps = self.n_rows < n_step_rows
        self._is_posted = False
        self._is_alone = reducer.fabric.n_ranks == 1
        self.adds = self._is_alone and not reducer.norms
        self.out = x if self.adds else partial
        if self.adds:
            return
        self._total = device.flat(partial)
        if self._is_alone:
            return
        row_bytes = wire_row_bytes(dim, reducer.wire)
        self._reduction = reducer.reduction(self.n_rows * row_bytes, n_step_rows * row_bytes, memory)
        self._partial = device.view(partial)
        self._own = self._reduction.own.reshape(self.n_rows, row_bytes)
        self._bound_own = device.bind(self._own)
        parts = self._reduction.parts
        self._parts = device.bind(parts if self._is_q80 else parts.view(np.float32))
        self._rounds = reducer.plan.rounds and isinstance(self._reduction, Direct)

    def bring(self, inputs: Inputs) -> None:
        """x := the step's inputs; complete after `wait`. Raises PeerError when a rank is lost."""
        residual = self._residual
        if isinstance(inputs, np.ndarray):
            residual.array[:] = inputs[self.rows]
            self._scale_inputs()
            residual.push()
            return

        def bring(timeout_s: float) -> None:
            inputs.bring(residual.array, self.rows, timeout_s)
            self._scale_inputs()
            residual.push()

        self._start(bring, SpanName.INPUTS)

    def _scale_inputs(self) -> None:
        if self._reducer.input_scale != 1.0:
            self._residual.array *= self._reducer.input_scale

    # `encode` and `add`, or `add_norm`, are operations of the device only, so that they can be recorded.

    def encode(self) -> None:
        """Own part := partial, which may be changed once it is sent."""
        if self._is_q80 and not self._is_alone:
            self._reducer.device.encode_q80(self._bound_own, self.out, self.n_rows)

    def send(self) -> None:
        """Exchanges the parts. Raises PeerError when a rank is lost."""
        if self._is_alone:
            return
        if not self._is_q80:
            self._partial.pull()
            self._own[:] = self._partial.array.view(np.uint8)
        self._start(self._reduction.run, SpanName.EXCHANGE)

    def wait(self) -> None:
        """Until the parts, or the inputs, are there. Raises PeerError when a rank is lost."""
        if self._is_posted:
            self._is_posted = False
            self._reducer.courier.wait()

    def add(self, after: Norm | None = None) -> None:
        """x += the sum of the parts, after a norm of its own if there is one."""
        if self.adds:
            return
        if after is None:
            self._add_parts(self.x)
            return
        device = self._reducer.device
        if not self._is_alone:  # the own part has been sent: its memory takes the sum
            device.clear(self.out, self.n_rows)
            self._add_parts(self.out)
        after.compute_in_order(device, self.out, self.out, self.n_rows)
        device.add_f32(self.x, self._total, self.n_rows)

    def add_norm(self, out: Rows, norm: Norm, after: Norm | None = None) -> None:
        """`add`, then out := x after the norm."""
        device = self._reducer.device
        if self._is_q80 and not self._is_alone and after is None and norm.bias is None:
            device.add_norm_q80(out, self.x, self._parts, norm.weight, norm.eps, self.n_rows, self._rounds)
        else:
            self.add(after)
            norm.compute(device, out, self.x, self.n_rows)

    def _add_parts(self, x: Buffer) -> None:
        """x += the sum of the parts; one rank alone has its own only."""
        device = self._reducer.device
        if self._is_alone:
            device.add_f32(x, self._total, self.n_rows)
        elif self._is_q80:
            device.add_q80(x, self._parts, self.n_rows, self._rounds)
        else:
            device.add_f32(x, self._parts, self.n_rows)

    def _start(self, transfer: Transfer, name: SpanName) -> None:
        """At once or, where another run is to be computed meanwhile, beside it."""
        if self._overlaps:
            self._is_posted = True
            self._reducer.courier.post(transfer, name)
        else:
            self._reducer.courier.carry(transfer, name)


@dataclasses.dataclass(frozen=True)
class _Reducer:
    """What all sums of a session share."""

    device: Device
    fabric: Fabric
    wire: ElementType
    plan: ReducePlan
    courier: Courier
    input_scale: float
    norms: bool

    def reduction(self, n_bytes: int, n_step_bytes: int, memory: Bytes) -> Reduction:
        """The exchange for parts of `n_bytes`, in a step whose parts have `n_step_bytes`."""
        scatter_bytes = self.plan.scatter_bytes
        if scatter_bytes is not None and n_step_bytes >= scatter_bytes:
            return Scattered(self.device, self.fabric, self.wire, memory, n_bytes)
        return Direct(self.fabric, memory, n_bytes)
