from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dllama.dtypes import ElementType
from dllama.kernels import device

# Operands that the cpu made are Buffers, in every operation; those of another device are a TypeError.
Floats: TypeAlias = NDArray[np.float32] | BoundArray | device.Buffer
Ints: TypeAlias = NDArray[np.int32] | BoundArray | device.Buffer
Cache: TypeAlias = (
    NDArray[np.float16] | NDArray[np.float32] | NDArray[np.uint8] | BoundArray | device.Buffer
)  # uint8: blocks of Q80
Bytes: TypeAlias = NDArray[np.uint8] | BoundArray | device.Buffer
Rows: TypeAlias = Q80Rows | device.QuantizedRows | Floats

def supported_isas() -> list[str]: ...
def convert(
    out: NDArray[np.uint8],
    out_type: ElementType,
    src: NDArray[np.uint8] | Buffer,
    src_type: ElementType,
    n_elements: int,
) -> bool: ...
def cut_rows(
    out: NDArray[np.uint8], dtype: ElementType, blocks: NDArray[np.uint8], first_in: int, n_in: int
) -> None: ...
def quantize(
    out: NDArray[np.uint8],
    out_type: ElementType,
    x: NDArray[np.float32],
    importance: NDArray[np.float32] | None = None,
    isa: str | None = None,
) -> bool: ...
def piece_cuts(
    text: bytes, ends: NDArray[np.int64], n_cut: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
def merge_candidates(
    ids: NDArray[np.int32],
    logits: NDArray[np.float32],
    log_sums: NDArray[np.float64],
    target_logits: NDArray[np.float32],
    parts: Sequence[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float64], NDArray[np.float32]]],
    temperature: NDArray[np.float32],
) -> None: ...

class BoundArray:
    def __init__(self, array: NDArray[Any]) -> None: ...

class PackedMatrix:
    def __init__(
        self, compute: Compute, dtype: ElementType, n_out: int, n_in: int, first_in: int = 0
    ) -> None: ...
    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def dtype(self) -> ElementType: ...
    @property
    def nbytes(self) -> int: ...
    def pack(self, first_row: int, rows: NDArray[np.uint8]) -> bool: ...
    def unpack(self, first_row: int, n: int) -> NDArray[np.uint8]: ...

class PackedStack:
    def __init__(
        self, compute: Compute, dtype: ElementType, n_matrices: int, n_out: int, n_in: int, first_in: int = 0
    ) -> None: ...
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
    def pack(self, index: int, first_row: int, rows: NDArray[np.uint8]) -> bool: ...
    def unpack(self, index: int, first_row: int, n: int) -> NDArray[np.uint8]: ...

class RoutedRows:
    def __init__(self, max_rows: int, n_experts: int, top_k: int) -> None: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def n_experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def ids(self) -> NDArray[np.int32]: ...
    @property
    def weights(self) -> NDArray[np.float32]: ...
    @property
    def logits(self) -> NDArray[np.float32]: ...

class Q80Rows:
    def __init__(self, max_rows: int, n: int) -> None: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def quants(self) -> NDArray[np.int8]: ...
    @property
    def scales(self) -> NDArray[np.float32]: ...
    @property
    def sums(self) -> NDArray[np.int32]: ...

class Program:
    def run(self) -> None: ...
    def __len__(self) -> int: ...

class Compute:
    def __init__(self, n_threads: int, isa: str | None = None) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def n_threads(self) -> int: ...
    def record(self, call: Callable[..., object], *args: object) -> Program: ...
    def matmul(
        self,
        out: Floats,
        matrix: PackedMatrix | device.Matrix,
        x: Rows,
        n_rows: int,
        add: bool = False,
        first_column: int | None = None,
    ) -> None: ...
    def gated_matmul(
        self,
        out: Rows,
        matrix: PackedMatrix | device.Matrix,
        x: Rows,
        scratch: Floats,
        n_rows: int,
        activation: str,
    ) -> None: ...
    def quantize_rows(self, out: Rows, x: Floats, n_rows: int) -> None: ...
    def rms_norm(self, out: Rows, x: Floats, weight: Floats, eps: float, n_rows: int) -> None: ...
    def rms_norm_in_order(self, out: Floats, x: Floats, weight: Floats, eps: float, n_rows: int) -> None: ...
    def layer_norm(
        self, out: Rows, x: Floats, weight: Floats, bias: Floats, eps: float, n_rows: int
    ) -> None: ...
    def silu_mul(self, out: Rows, gate_up: Floats, n_rows: int, activation: str) -> None: ...
    def add_bias(self, x: Floats, bias: Floats, n_rows: int) -> None: ...
    def soft_cap(self, x: Floats, scale: float, cap: float, n_rows: int) -> None: ...
    def clear(self, x: Floats, n_rows: int) -> None: ...
    def head_rms_norm(
        self, x: Floats, weight: Floats, eps: float, first_head: int, n_heads: int, n_rows: int
    ) -> None: ...
    def rope_store(
        self,
        qkv: Floats,
        cos_sin: Floats,
        positions: Ints,
        sequence: Ints,
        page_table: Ints,
        k_cache: Cache,
        v_cache: Cache,
        n_heads: int,
        n_halves: int,
        n_rows: int,
    ) -> None: ...
    def attention(
        self,
        out: Rows,
        qkv: Floats,
        positions: Ints,
        sequence: Ints,
        page_table: Ints,
        k_cache: Cache,
        v_cache: Cache,
        n_heads: int,
        head_offset: int,
        group: int,
        window: int,
        n_rows: int,
        sinks: Floats | None = None,
        soft_cap: float = 0.0,
    ) -> None: ...
    def causal_conv(
        self,
        out: Floats,
        x: Floats,
        weights: Floats,
        state: Floats,
        positions: Ints,
        sequence: Ints,
        page_table: Ints,
        page_size: int,
        n_rows: int,
    ) -> None: ...
    def delta_rule(
        self,
        out: Floats,
        qkv: Floats,
        gates: Floats,
        first_gate: int,
        log_rate: Floats,
        dt_bias: Floats,
        state: Floats,
        positions: Ints,
        sequence: Ints,
        page_table: Ints,
        page_size: int,
        head_offset: int,
        group: int,
        n_rows: int,
    ) -> None: ...
    def gated_norm(
        self, out: Rows, x: Floats, weight: Floats, eps: float, gate: Floats, first_column: int, n_rows: int
    ) -> None: ...
    def sigmoid_scale(self, out: Rows, x: Floats, gate: Floats, n_rows: int) -> None: ...
    def sigmoid_mul(self, out: Rows, x: Floats, gate: Floats, first_column: int, n_rows: int) -> None: ...
    def top_candidates(
        self,
        ids: Ints,
        largest: Floats,
        sums: NDArray[np.float64],
        logits: Floats,
        temperature: Floats,
        first_id: int,
        n_rows: int,
    ) -> None: ...
    def latent_store(
        self,
        rows: Floats,
        weight: Floats,
        eps: float,
        cos_sin: Floats,
        positions: Ints,
        sequence: Ints,
        page_table: Ints,
        cache: Cache,
        halves: bool,
        n_rows: int,
    ) -> None: ...
    def latent_queries(
        self,
        content: Rows,
        absorbed: Floats,
        queries: Floats,
        cos_sin: Floats,
        positions: Ints,
        n_heads: int,
        halves: bool,
        n_rows: int,
    ) -> None: ...
    def head_products(
        self, out: Floats, stack: PackedStack | device.MatrixStack, x: Rows, n_rows: int
    ) -> None: ...
    def latent_attention(
        self,
        out: Rows,
        queries: Floats,
        positions: Ints,
        sequence: Ints,
        page_table: Ints,
        cache: Cache,
        scale: float,
        n_rows: int,
    ) -> None: ...
    def route(
        self,
        routing: RoutedRows | device.Routes,
        x: Floats,
        norm: Floats,
        eps: float,
        weights: Floats,
        n_rows: int,
        renormalised: bool,
        sigmoid: bool = False,
        choice_bias: Floats | None = None,
        n_groups: int = 1,
        top_groups: int = 1,
        group_best: int = 1,
        scale: float = 1.0,
        logit_bias: Floats | None = None,
    ) -> None: ...
    def experts_gated(
        self,
        out: Rows,
        stack: PackedStack | device.MatrixStack,
        x: Rows,
        routing: RoutedRows | device.Routes,
        n_rows: int,
        activation: str,
        gate_bias: Floats | None = None,
        up_bias: Floats | None = None,
    ) -> None: ...
    def experts_down(
        self,
        out: Floats,
        stack: PackedStack | device.MatrixStack,
        x: Rows,
        routing: RoutedRows | device.Routes,
        n_rows: int,
        add: bool = False,
        bias: Floats | None = None,
    ) -> None: ...
    def encode_q80(self, out: Bytes, x: Floats, n_rows: int) -> None: ...
    def add_q80(self, x: Floats, parts: Bytes, n_rows: int, rounded: bool = False) -> None: ...
    def add_norm_q80(
        self,
        out: Rows,
        x: Floats,
        parts: Bytes,
        weight: Floats,
        eps: float,
        n_rows: int,
        rounded: bool = False,
    ) -> None: ...
    def sum_q80(self, out: NDArray[np.uint8], parts: NDArray[np.uint8]) -> None: ...
    def add_f32(self, x: Floats, parts: Floats, n_rows: int) -> None: ...
    @property
    def native_s(self) -> float: ...
    @property
    def attention_s(self) -> float: ...
    def read_memory(self, memory: NDArray[np.uint8]) -> int: ...
    def dot_peak(self, rounds: int) -> int: ...
    def float_peak(self, rounds: int) -> int: ...

class SocketMesh:
    def __init__(self, fds: Sequence[int]) -> None: ...
    def exchange(
        self,
        sends: Sequence[tuple[int, Any]],
        receives: Sequence[tuple[int, Any]],
        spin_s: float,
        patience_s: float,
    ) -> bool | tuple[int, int]: ...
    def go_on(self, spin_s: float, patience_s: float) -> bool | tuple[int, int]: ...
    def close(self) -> None: ...
    def outstanding(self, link: int) -> tuple[int, int]: ...
    @property
    def sent_bytes(self) -> list[int]: ...
    @property
    def received_bytes(self) -> list[int]: ...
    @property
    def idle_s(self) -> float: ...
    @property
    def wait_s(self) -> float: ...
    @property
    def wire_s(self) -> float: ...

class MapGuard:
    def __init__(self, map: Buffer, line: str) -> None: ...
