"""The seam between the forward pass and what computes it: `cpu` (native code), `reference` (NumPy), later a GPU.

Memory that operations work on belongs to the device: buffers, rows, matrices. What travels between nodes or comes from
the engine (parts of sums, positions, pages, candidates) lies in NumPy arrays, which operations reach through `bind`.
An operand goes to the device that made it; another device's is a TypeError.

T rows of a step, N rows whose logits are wanted, D model width, H query heads, K KV heads, E head width, F FFN width,
V vocabulary. `n_rows` says how many leading rows of an operand count. A wrong type is a TypeError, a wrong shape or
index a ValueError. The value of an output element depends on its own row only, never on the other rows of the call. All
is float32 but where said otherwise. `oracle.py` says in NumPy what each operation computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dllama.dtypes import ElementType


class Buffer(Protocol):
    """Memory with a shape, an operand."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...


class QuantizedRows(Protocol):
    """Inputs of matrix products, [max_rows, n], as a device wants them for weights of a quantised type."""

    @property
    def max_rows(self) -> int: ...
    @property
    def n(self) -> int: ...


Rows: TypeAlias = QuantizedRows | Buffer
"""[T, n]: what `quantised_rows` makes, or a buffer."""


class Matrix(Protocol):
    """Weights [n_out, n_in] of one element type, in the device's own layout."""

    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def dtype(self) -> ElementType: ...
    @property
    def nbytes(self) -> int: ...
    def pack(self, first_row: int, rows: NDArray[np.uint8]) -> bool:
        """Takes `rows` [n, bytes of a row], as they lie in a file but for blocks that are cut (docs/formats.md), as
        those from `first_row` on. False when one of them holds NaN or infinity. Disjoint runs of rows may be packed
        from several threads."""
        ...


class MatrixStack(Protocol):
    """Matrices [n_out, n_in] of one element type: one or two for each expert of a mixture."""

    @property
    def n_matrices(self) -> int: ...
    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def dtype(self) -> ElementType: ...
    @property
    def nbytes(self) -> int: ...
    def pack(self, index: int, first_row: int, rows: NDArray[np.uint8]) -> bool:
        """As Matrix.pack, of one of the matrices."""
        ...


class Routes(Protocol):
    """Which experts the rows of a step go to, written by `route`, and read from Python by tests."""

    @property
    def max_rows(self) -> int: ...
    @property
    def n_experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def ids(self) -> NDArray[np.int32]:
        """[max_rows, top_k] by falling logit, of equals the lower id first."""
        ...

    @property
    def weights(self) -> NDArray[np.float32]:
        """[max_rows, top_k] of their outputs."""
        ...


class Program(Protocol):
    """Recorded operations."""

    def run(self) -> None:
        """Carries them out in a row, with what is in their operands now. Bound arrays then have what was written."""
        ...

    def __len__(self) -> int: ...


class HostView(Protocol):
    """What Python sees of a buffer: `array` is the buffer's own memory where Python can reach that, else a copy."""

    array: NDArray[Any]

    def push(self, rows: slice = ...) -> None:
        """The buffer has what was written into these rows of `array`."""
        ...

    def pull(self, rows: slice = ...) -> None:
        """These rows of `array` have what operations wrote into the buffer."""
        ...


class Device(Protocol):
    """Memory and operations of one kind of processor. One thread at a time calls it, but for `sum_q80`."""

    @property
    def isa(self) -> str:
        """What people call it: the instruction set of the cpu, or the kind of device."""
        ...

    @property
    def n_threads(self) -> int: ...
    @property
    def native_s(self) -> float:
        """Time spent in operations so far."""
        ...

    @property
    def attention_s(self) -> float:
        """Time spent in `attention` so far."""
        ...

    # memory

    def buffer(self, *shape: int, dtype: DTypeLike = np.float32) -> Buffer:
        """Zeros."""
        ...

    def part(self, buffer: Buffer, rows: slice) -> Buffer:
        """These rows of the buffer: the same memory."""
        ...

    def flat(self, buffer: Buffer) -> Buffer:
        """All of it as one row, [1, n]: the same memory."""
        ...

    def take(self, buffer: Buffer, rows: NDArray[np.int32]) -> Buffer:
        """Copies of these rows, in this order."""
        ...

    def bind(self, array: NDArray[Any]) -> Buffer:
        """Memory of Python's as an operand: operations read and write the array itself. It must be C-contiguous."""
        ...

    def view(self, buffer: Buffer) -> HostView: ...

    def quantised_rows(self, max_rows: int, n: int) -> Rows:
        """Memory for the inputs of products with weights of blocked types; those with others take buffers."""
        ...

    def matrix(self, dtype: ElementType, n_out: int, n_in: int, first_in: int = 0) -> Matrix:
        """Memory for weights; zeros. Its columns are those from `first_in` on of the matrix that it was cut from, both
        multiples of `dtype.run`: blocks begin where they begin there."""
        ...

    def stack(
        self, dtype: ElementType, n_matrices: int, n_out: int, n_in: int, first_in: int = 0
    ) -> MatrixStack:
        """Memory for weights; zeros. As `matrix`, each of them."""
        ...

    def routes(self, max_rows: int, n_experts: int, top_k: int) -> Routes: ...

    def record(self, call: Callable[..., object], *args: object) -> Program:
        """The operations that `call(*args)` asks for, checked and kept in place of being carried out."""
        ...

    # matrix products

    def quantize_rows(self, out: Rows, x: Buffer, n_rows: int) -> None:
        """out := x [T, n]; `out` are rows for weights of a blocked type."""
        ...

    def matmul(
        self,
        out: Buffer,
        matrix: Matrix,
        x: Rows,
        n_rows: int,
        add: bool = False,
        first_column: int | None = None,
    ) -> None:
        """out [T, n_out] := x [T, n_in] @ matrix.T, or += with `add`. With a `first_column` the product is so many
        columns of a wider `out`, from that one on."""
        ...

    def gated_matmul(
        self, out: Rows, matrix: Matrix, x: Rows, scratch: Buffer, n_rows: int, activation: str
    ) -> None:
        """out [T, F] := act(gate) * up, where gate and up are the halves of x @ matrix.T [T, 2F], rows of either whole
        blocks. `scratch` [T, 2F] may be overwritten. `activation`: see silu_mul."""
        ...

    def silu_mul(self, out: Rows, gate_up: Buffer, n_rows: int, activation: str) -> None:
        """out [T, F] := act(gate) * up, the halves of gate_up [T, 2F]. `activation`: silu; gelu, in its tanh form;
        swiglu_oai, which is gate * sigmoid(1.702 gate) * (up + 1) with gate at most 7 and up within 7 of 0."""
        ...

    # mixtures of experts. A slot is one row at one of its experts; slots are ordered by expert, then by row.

    def route(
        self,
        routing: Routes,
        x: Buffer,
        norm: Buffer,
        eps: float,
        weights: Buffer,
        n_rows: int,
        renormalised: bool,
        sigmoid: bool = False,
        choice_bias: Buffer | None = None,
        n_groups: int = 1,
        top_groups: int = 1,
        group_best: int = 1,
        scale: float = 1.0,
        logit_bias: Buffer | None = None,
    ) -> None:
        """The experts of each row of the residual stream x [T, D], by the logits of its norm with `weights`
        [n_experts, D], to which `logit_bias` [n_experts] is added: those of the largest scores, which are the softmax
        of all logits, or of each its `sigmoid`, and `choice_bias` [n_experts] then, for the choice alone. Their weights
        are `scale` times their scores, divided by the sum of these where `renormalised`.

        With `n_groups` of neighbours only experts of the best `top_groups` are chosen: a group is as good as the sum
        of its `group_best` (1, with sigmoids also 2) best scores. The same bits on every device (router_oracle.py)."""
        ...

    def experts_gated(
        self,
        out: Rows,
        stack: MatrixStack,
        x: Rows,
        routing: Routes,
        n_rows: int,
        activation: str,
        gate_bias: Buffer | None = None,
        up_bias: Buffer | None = None,
    ) -> None:
        """out [slots, F] := act(gate) * up of x [T, D], with a gate and an up projection [F, D] of each expert in turn
        in `stack`, to which `gate_bias` and `up_bias` [n_experts, F] are added before. `n_rows` must be those that were
        routed."""
        ...

    def experts_down(
        self,
        out: Buffer,
        stack: MatrixStack,
        x: Rows,
        routing: Routes,
        n_rows: int,
        add: bool = False,
        bias: Buffer | None = None,
    ) -> None:
        """out [T, D] := the weighted sum over each row's slots of x [slots, F] @ its expert's matrix of `stack` [D, F],
        and its expert's row of `bias` [n_experts, D], by rising expert; += with `add`."""
        ...

    # of rows

    def rms_norm(self, out: Rows, x: Buffer, weight: Buffer, eps: float, n_rows: int) -> None:
        """out [T, D] := x / sqrt(mean(x^2) + eps) * weight [D]."""
        ...

    def layer_norm(self, out: Rows, x: Buffer, weight: Buffer, bias: Buffer, eps: float, n_rows: int) -> None:
        """out [T, D] := (x - mean(x)) / sqrt(variance(x) + eps) * weight [D] + bias [D]."""
        ...

    def head_rms_norm(
        self, x: Buffer, weight: Buffer, eps: float, first_head: int, n_heads: int, n_rows: int
    ) -> None:
        """rms_norm, in place, of each of `n_heads` heads of x [T, heads * E]; weight [E]."""
        ...

    def add_bias(self, x: Buffer, bias: Buffer, n_rows: int) -> None:
        """x [T, n] += bias [n]."""
        ...

    def soft_cap(self, x: Buffer, scale: float, cap: float, n_rows: int) -> None:
        """x [T, n] := scale x, and then cap tanh(x / cap) unless `cap` is 0."""
        ...

    def clear(self, x: Buffer, n_rows: int) -> None:
        """x [T, n] := zeros."""
        ...

    # attention. Where rows stand: positions [T] and sequence [T], an index into page_table [S, max_pages], all int32.
    # Caches are [n_pages, K, page_size, E] float16 or float32, or of uint8 with the bytes of E values as Q80 last.

    def rope_store(
        self,
        qkv: Buffer,
        cos_sin: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        k_cache: Buffer,
        v_cache: Buffer,
        n_heads: int,
        n_halves: int,
        n_rows: int,
    ) -> None:
        """Rotates queries and keys of qkv [T, (H + 2K) E] by cos_sin [n_positions, E/2, 2]: the first `n_halves`
        elements of each head in pairs (i, i + n_halves/2), the others in pairs (2i, 2i + 1); then stores keys and
        values in the caches."""
        ...

    def attention(
        self,
        out: Rows,
        qkv: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        k_cache: Buffer,
        v_cache: Buffer,
        n_heads: int,
        head_offset: int,
        group: int,
        window: int,
        n_rows: int,
        sinks: Buffer | None = None,
        soft_cap: float = 0.0,
    ) -> None:
        """out [T, H E] := softmax(q k / sqrt(E)) v over the positions up to a row's own; query head h has the KV head
        (h + head_offset) // group. With a `window` only that many last positions are seen; 0: all. `sinks` [H]: a
        logit more for each query head, which has no value. With a `soft_cap` c scores s are c tanh(s / c)."""
        ...

    # latent attention (latent_oracle.py): one row of each position, L elements of a latent and R with a rope, is what
    # all heads share. Caches are those above, of one head. N elements of a query have no rope.

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
        """Of rows [T, L + R] norms the first L elements, weight [L], rotates the others by cos_sin [n_positions, R/2,
        2] as rope_store does, and stores all in the cache."""
        ...

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
        """Of queries [T, H (N + R)]: content [H T, N], row h * n_rows + t := the first N elements of each; the last R
        of each head of absorbed [T, H (L + R)] := the others, rotated."""
        ...

    def head_products(self, out: Buffer, stack: MatrixStack, x: Rows, n_rows: int) -> None:
        """The first n_out columns of each of the H heads in a row of out [T, n] := its row of x [H T, n_in], row
        h * n_rows + t, @ its matrix in `stack` [H, n_out, n_in].T."""
        ...

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
        """out [H T, L], row h * n_rows + t := softmax(scale q k) v over the positions up to a row's own, for each head
        of queries [T, H (L + R)]; k is a row of the cache, v its first L elements."""
        ...

    # states, of layers that see what was before as a few numbers (recurrent, convolution): one for each page of
    # positions, at page_table [S, max_pages], that behind the last row there so far. Rows of a sequence follow each
    # other, and so do their positions. What a row finds is the state behind the row before it, which may be that of the
    # page before; at position 0 it is zeros. It is left to the row's own page.

    def causal_conv(
        self,
        out: Buffer,
        x: Buffer,
        weights: Buffer,
        state: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        page_size: int,
        n_rows: int,
    ) -> None:
        """out [T, C] := silu of the convolution of the first C columns of x [T, n], each by itself, over the last W
        rows of its sequence with weights [W, C]; `state` [pages, W - 1, C] has the inputs before."""
        ...

    def delta_rule(
        self,
        out: Buffer,
        qkv: Buffer,
        gates: Buffer,
        first_gate: int,
        log_rate: Buffer,
        dt_bias: Buffer,
        state: Buffer,
        positions: Buffer,
        sequence: Buffer,
        page_table: Buffer,
        page_size: int,
        head_offset: int,
        group: int,
        n_rows: int,
    ) -> None:
        """out [T, H DV] := the gated delta rule (delta_oracle.py) of queries and keys, normed here, and values in qkv
        [T, 2 K DK + H DV] with `state` [pages, H, DK, DV]; value head h has the key head (h + head_offset) // group.
        Columns of `gates` from `first_gate` on are beta [T, H], of which the sigmoid counts, and alpha [T, H]; what
        stays of a state is exp(-exp(log_rate [H]) * softplus(alpha + dt_bias [H]))."""
        ...

    def gated_norm(
        self, out: Rows, x: Buffer, weight: Buffer, eps: float, gate: Buffer, first_column: int, n_rows: int
    ) -> None:
        """out [T, n] := rms_norm of each head of x [T, n], weight [E], times silu of as many columns of `gate` from
        `first_column` on. x may be overwritten."""
        ...

    def sigmoid_scale(self, out: Rows, x: Buffer, gate: Buffer, n_rows: int) -> None:
        """out [T, n] := x [T, n] times the sigmoid of gate [T, 1]."""
        ...

    def sigmoid_mul(self, out: Rows, x: Buffer, gate: Buffer, first_column: int, n_rows: int) -> None:
        """out [T, n] := x [T, n] times the sigmoid of as many columns of `gate` from `first_column` on."""
        ...

    # logits

    def top_candidates(
        self,
        ids: NDArray[np.int32],
        largest: NDArray[np.float32],
        sums: NDArray[np.float64],
        logits: Buffer,
        temperature: NDArray[np.float32],
        first_id: int,
        n_rows: int,
    ) -> None:
        """Of each row of logits [N, V] the largest, see model.RankCandidates: ids and `largest` [N, C], sums [2, N];
        temperature [N]. `first_id` is the token of the first column."""
        ...

    # sums over ranks. Their bits are the same on every device: float32 step by step, the first part first, and no fused
    # multiply-add. Q80 rows are whole blocks, 34 bytes each, the last one padded with zeros.

    def rms_norm_in_order(self, out: Buffer, x: Buffer, weight: Buffer, eps: float, n_rows: int) -> None:
        """rms_norm of a sum before it is added, so the same bits as well (router_oracle.fixed_order_norm). `x` may be
        `out`."""
        ...

    def encode_q80(self, out: Buffer, x: Buffer, n_rows: int) -> None:
        """out [T, bytes of D values] uint8 := x [T, D]."""
        ...

    def add_q80(self, x: Buffer, parts: Buffer, n_rows: int, rounded: bool = False) -> None:
        """x [T, D] += the sum of parts [P, T * bytes of D values] uint8; with `rounded` the sum is rounded to Q80
        first."""
        ...

    def add_norm_q80(
        self,
        out: Rows,
        x: Buffer,
        parts: Buffer,
        weight: Buffer,
        eps: float,
        n_rows: int,
        rounded: bool = False,
    ) -> None:
        """add_q80, then rms_norm of x to `out`."""
        ...

    def add_f32(self, x: Buffer, parts: Buffer, n_rows: int) -> None:
        """x [T, D] += the sum of parts [P, T * D]."""
        ...

    def sum_q80(self, out: NDArray[np.uint8], parts: NDArray[np.uint8]) -> None:
        """out [bytes] := the sum of parts [P, bytes], Q80 both. Any thread may call it, beside other operations."""
        ...
