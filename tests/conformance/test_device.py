"""What every device promises (kernels/device.py), against the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama import dtypes
from dllama.dtypes import BLOCK, ElementType, cut_row_bytes, row_bytes
from dllama.kernels import Buffer, Cpu, Device, Reference, Rows, cut_rows, oracle, router_oracle
from kernels.checks import EPS, Float32, Floats, assert_within
from kernels.stored_weights import BLOCKED, FLOAT16_SCALES, PLAIN, parts, stored

DEVICES: dict[str, Callable[[], Device]] = {"cpu": lambda: Cpu(2), "reference": Reference}
WEIGHT_TYPES = PLAIN + BLOCKED
CACHE_TYPES = [ElementType.F32, ElementType.F16, ElementType.Q80]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return DEVICES[request.param]()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(request.node.name.encode(), "little") % 2**63)


def normal(rng: np.random.Generator, *shape: int) -> Float32:
    return rng.standard_normal(shape).astype(np.float32)


def put(device: Device, array: NDArray[np.generic]) -> Buffer:
    """A buffer that holds the array."""
    buffer = device.buffer(*array.shape, dtype=array.dtype)
    view = device.view(buffer)
    view.array[...] = array
    view.push()
    return buffer


def read(device: Device, buffer: Buffer) -> NDArray[np.generic]:
    view = device.view(buffer)
    view.pull()
    return view.array.copy()


def new_rows(device: Device, dtype: ElementType, max_rows: int, n: int) -> Rows:
    """As weights of the type take them."""
    return device.quantised_rows(max_rows, n) if dtype.is_blocked else device.buffer(max_rows, n)


def put_rows(device: Device, dtype: ElementType, x: Float32) -> Rows:
    if not dtype.is_blocked:
        return put(device, x)
    rows = device.quantised_rows(len(x), x.shape[1])
    device.quantize_rows(rows, put(device, x), len(x))
    return rows


def identity(device: Device, dtype: ElementType, n: int) -> object:
    """A matrix that gives rows as they are: 1 is exact in F32 and in Q40, where it is -8 times -1/8."""
    matrix = device.matrix(dtype, n, n)
    assert matrix.pack(0, oracle.encode(dtype, np.eye(n, dtype=np.float32)))
    return matrix


def read_rows(device: Device, dtype: ElementType, rows: Rows, n_rows: int, n: int) -> Float32:
    """What rows stand for."""
    out = device.buffer(n_rows, n)
    plain = ElementType.Q40 if dtype.is_blocked else ElementType.F32
    device.matmul(out, identity(device, plain, n), rows, n_rows)  # type: ignore[arg-type]
    return read(device, out)  # type: ignore[return-value]


def quantisation_step(device: Device, dtype: ElementType, x: Floats) -> Floats:
    """What the device may change in each element of x [T, n] where that is the input of products with such weights:
    half a quant, and the rounding of the scale to float16."""
    if isinstance(device, Reference) or not dtype.is_blocked:
        return np.zeros(x.shape)
    largest = np.abs(x).reshape(len(x), -1, BLOCK).max(-1)
    return np.repeat(largest * (0.5 / 127 * (1 + 8 * EPS) + 2.0**-11) + 127 * 2.0**-25, BLOCK, axis=-1)


# memory


def test_buffers_are_zeros_and_take_what_is_written(device: Device, rng: np.random.Generator) -> None:
    buffer = device.buffer(5, 7)
    assert buffer.shape == (5, 7)
    assert buffer.nbytes == 140
    assert not read(device, buffer).any()
    view, values = device.view(buffer), normal(rng, 2, 7)
    view.array[1:3] = values
    view.push(slice(1, 3))
    np.testing.assert_array_equal(read(device, buffer)[1:3], values)
    assert device.buffer(3, dtype=np.int32).nbytes == 12


def test_a_part_is_the_same_memory(device: Device, rng: np.random.Generator) -> None:
    x, bias = normal(rng, 6, 4), normal(rng, 4)
    buffer = put(device, x)
    device.add_bias(device.part(buffer, slice(2, 5)), put(device, bias), 3)
    x[2:5] += bias
    np.testing.assert_array_equal(read(device, buffer), x)


def test_operations_reach_the_memory_of_a_bound_array(device: Device, rng: np.random.Generator) -> None:
    x = normal(rng, 3, 32)
    wire = np.zeros((3, 34), np.uint8)
    device.encode_q80(device.bind(wire), put(device, x), 3)
    np.testing.assert_array_equal(wire, oracle.encode(ElementType.Q80, x))


# matrix products


@pytest.mark.parametrize("n_rows", [1, 3, 9, 38])
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 32), (17, 96), (70, 2048)])
@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
def test_matmul(
    device: Device, rng: np.random.Generator, dtype: ElementType, n_out: int, n_in: int, n_rows: int
) -> None:
    n_in = whole_blocks(dtype, n_in)
    data = stored(rng, dtype, n_out, n_in)
    matrix = device.matrix(dtype, n_out, n_in)
    assert (matrix.n_out, matrix.n_in, matrix.dtype) == (n_out, n_in, dtype)
    assert matrix.pack(0, data[: n_out // 2])
    assert matrix.pack(n_out // 2, data[n_out // 2 :])
    weights = oracle.decode(dtype, data, n_in)
    x, before = normal(rng, n_rows, n_in), normal(rng, n_rows, n_out)
    out, sums, wide = device.buffer(n_rows + 1, n_out), put(device, before), device.buffer(n_rows, n_out + 5)
    rows = put_rows(device, dtype, x)
    device.matmul(out, matrix, rows, n_rows)
    device.matmul(sums, matrix, rows, n_rows, add=True)
    device.matmul(wide, matrix, rows, n_rows, first_column=3)

    step = quantisation_step(device, dtype, x)
    scaled, minimums = parts(dtype, data, n_in)
    sizes = oracle.matmul(np.abs(scaled) + np.abs(minimums), np.abs(x) + step)
    bound = oracle.matmul(np.abs(weights), step) + (n_in + 3) * EPS / 2 * sizes
    wanted = oracle.matmul(weights, x)
    got = read(device, out)
    assert_within(got[:n_rows], wanted, bound)
    assert not got[n_rows].any()
    beside = np.pad(got[:n_rows], [(0, 0), (3, 2)])
    np.testing.assert_array_equal(read(device, wide), beside)
    assert_within(read(device, sums), before + wanted, bound + EPS * (np.abs(before) + sizes))


@pytest.mark.parametrize(("start", "stop"), [(96, 192), (224, 544), (0, 320)])
@pytest.mark.parametrize("dtype", [dtype for dtype in WEIGHT_TYPES if dtype.is_blocked])
def test_rows_are_cut_within_blocks(
    device: Device, rng: np.random.Generator, dtype: ElementType, start: int, stop: int
) -> None:
    n_out, n_in, n_rows = 37, stop - start, 6
    data = stored(rng, dtype, n_out, 768)
    shard = np.empty((n_out, cut_row_bytes(dtype, start, stop)), np.uint8)
    blocks = dtypes.whole_blocks(dtype, start, stop)
    touched = data[:, row_bytes(dtype, blocks.start) : row_bytes(dtype, blocks.stop)]
    cut_rows(shard, dtype, np.ascontiguousarray(touched), start, n_in)
    matrix, stack = device.matrix(dtype, n_out, n_in, start), device.stack(dtype, 2, n_out, n_in, start)
    assert matrix.pack(0, shard)
    assert stack.pack(1, 0, shard)
    x, out = normal(rng, n_rows, n_in), device.buffer(n_rows, n_out)
    device.matmul(out, matrix, put_rows(device, dtype, x), n_rows)

    weights = oracle.decode(dtype, data, 768)[:, start:stop]
    step = quantisation_step(device, dtype, x)
    scaled, minimums = (part[:, start:stop] for part in parts(dtype, data, 768))
    sizes = oracle.matmul(np.abs(scaled) + np.abs(minimums), np.abs(x) + step)
    bound = oracle.matmul(np.abs(weights), step) + (n_in + 3) * EPS / 2 * sizes
    assert_within(read(device, out), oracle.matmul(weights, x), bound)
    for first, n in ((start + 8, n_in), (start, n_in + 8)):
        with pytest.raises(ValueError, match="multiple of 32"):
            device.matrix(dtype, n_out, n, first)


def whole_blocks(dtype: ElementType, n: int) -> int:
    """The least number of whole blocks that n elements fit into, in elements."""
    return -(-n // dtype.block) * dtype.block


def test_the_reference_takes_what_only_embeddings_are(rng: np.random.Generator) -> None:
    device, weights = Reference(), oracle.encode(ElementType.BF16, normal(rng, 6, 50))
    matrix = device.matrix(ElementType.BF16, 6, 50)
    assert matrix.pack(0, weights)
    out, x = device.buffer(3, 6), normal(rng, 3, 50)
    device.matmul(out, matrix, put(device, x), 3)
    values = oracle.decode(ElementType.BF16, weights, 50)
    bound = (50 + 3) * EPS / 2 * oracle.matmul(np.abs(values), np.abs(x))
    assert_within(read(device, out), oracle.matmul(values, x), bound)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [*PLAIN, *FLOAT16_SCALES])
def test_pack_tells_of_what_is_not_finite(
    device: Device, rng: np.random.Generator, dtype: ElementType, bad: float
) -> None:
    n_in = 2 * whole_blocks(dtype, 32)
    data = stored(rng, dtype, 3, n_in)
    matrix = device.matrix(dtype, 3, n_in)
    assert matrix.pack(0, data)
    element = np.float32 if dtype is ElementType.F32 else np.float16
    damage = np.asarray([bad], element).view(np.uint8)
    for at in FLOAT16_SCALES.get(dtype, (0,)):
        damaged = data.copy()
        damaged[1, at : at + len(damage)] = damage
        assert not matrix.pack(0, damaged)


@pytest.mark.parametrize("activation", ["silu", "gelu", "swiglu_oai"])
@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
def test_gated_matmul(device: Device, rng: np.random.Generator, dtype: ElementType, activation: str) -> None:
    n_ffn, n_in, n_rows = 64, whole_blocks(dtype, 96), 7
    data = stored(rng, dtype, 2 * n_ffn, n_in)
    matrix = device.matrix(dtype, 2 * n_ffn, n_in)
    assert matrix.pack(0, data)
    rows = put_rows(device, dtype, normal(rng, n_rows, n_in))
    product = device.buffer(n_rows, 2 * n_ffn)
    device.matmul(product, matrix, rows, n_rows)
    out = new_rows(device, dtype, n_rows, n_ffn)
    device.gated_matmul(out, matrix, rows, device.buffer(n_rows, 2 * n_ffn), n_rows, activation)

    gate_up = read(device, product).astype(np.float64)  # what the device itself multiplies to
    wanted, rounding = oracle.gated(gate_up, activation), gated_error(gate_up, activation)
    step = quantisation_step(device, dtype, np.abs(wanted) + rounding)
    assert_within(read_rows(device, dtype, out, n_rows, n_ffn), wanted, rounding + step)


@pytest.mark.parametrize("activation", ["silu", "gelu", "swiglu_oai"])
def test_silu_mul(device: Device, rng: np.random.Generator, activation: str) -> None:
    gate_up = 3 * normal(rng, 5, 2 * 96)
    out = device.buffer(5, 96)
    device.silu_mul(out, put(device, gate_up), 5, activation)
    wanted = oracle.gated(gate_up, activation)
    assert_within(read(device, out), wanted, gated_error(gate_up, activation))


def gated_error(gate_up: Floats, activation: str) -> Floats:
    """The rounding of the argument of exp, which becomes a relative error, and of what follows; exp ends at 2^126."""
    gate, up = np.abs(np.split(gate_up.astype(np.float64), 2, axis=-1))
    argument = {"silu": gate, "gelu": 1.6 * (gate + 0.045 * gate**3), "swiglu_oai": 1.702 * gate}[activation]
    relative = np.abs(oracle.gated(gate_up, activation)) * (6 + 4 * argument) * EPS
    return np.asarray(relative + 2.0**-126 * gate * up)


# of rows


@pytest.mark.parametrize("dtype", [ElementType.F32, ElementType.Q40])
@pytest.mark.parametrize("n", [32, 96, 1056])
def test_rms_norm(device: Device, rng: np.random.Generator, n: int, dtype: ElementType) -> None:
    x, weight = 3 * normal(rng, 5, n), normal(rng, n)
    out = new_rows(device, dtype, 5, n)
    device.rms_norm(out, put(device, x), put(device, weight), 1e-5, 5)
    wanted = oracle.rms_norm(x, weight, 1e-5)
    bound = np.abs(wanted) * (n / 8 + 8) * EPS + quantisation_step(device, dtype, wanted)
    assert_within(read_rows(device, dtype, out, 5, n), wanted, bound)


@pytest.mark.parametrize("dtype", [ElementType.F32, ElementType.Q40])
@pytest.mark.parametrize("n", [32, 96, 1056])
def test_layer_norm(device: Device, rng: np.random.Generator, n: int, dtype: ElementType) -> None:
    x, weight, bias = 3 * normal(rng, 5, n) + 2, normal(rng, n), normal(rng, n)
    out = new_rows(device, dtype, 5, n)
    device.layer_norm(out, put(device, x), put(device, weight), put(device, bias), 1e-5, 5)
    wanted = oracle.layer_norm(x, weight, bias, 1e-5)
    bound = layer_norm_bound(x, weight, bias) + quantisation_step(device, dtype, wanted)
    assert_within(read_rows(device, dtype, out, 5, n), wanted, bound)


def layer_norm_bound(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The mean is off by what its sum loses, and every number with it."""
    n, deviation = x.shape[1], x.std(axis=1, keepdims=True)
    magnitudes = (np.abs(x) + np.abs(x).mean(axis=1, keepdims=True)) / deviation
    return np.asarray((magnitudes * np.abs(weight) + np.abs(bias)) * (n / 8 + 12) * EPS)


def test_head_rms_norm(device: Device, rng: np.random.Generator) -> None:
    x, weight = normal(rng, 5, 7 * 64), normal(rng, 64)
    buffer = put(device, x)
    device.head_rms_norm(buffer, put(device, weight), 1e-6, 1, 4, 5)
    wanted = x.reshape(5, 7, 64).astype(np.float64)
    wanted[:, 1:5] = oracle.rms_norm(wanted[:, 1:5], weight, 1e-6)
    bound = np.abs(wanted) * (64 / 8 + 8) * EPS
    assert_within(read(device, buffer).reshape(5, 7, 64), wanted, bound)


def test_add_bias(device: Device, rng: np.random.Generator) -> None:
    x, bias = normal(rng, 4, 33), normal(rng, 33)
    buffer = put(device, x)
    device.add_bias(buffer, put(device, bias), 3)
    np.testing.assert_array_equal(read(device, buffer), np.concatenate([x[:3] + bias, x[3:]]))


@pytest.mark.parametrize(("scale", "cap"), [(1.0, 30.0), (0.125, 0.0), (3.0, 2.0)])
def test_soft_cap(device: Device, rng: np.random.Generator, scale: float, cap: float) -> None:
    x = 20 * normal(rng, 4, 33)
    buffer = put(device, x)
    device.soft_cap(buffer, scale, cap, 3)
    got = read(device, buffer)
    assert_within(got[:3], oracle.soft_cap(x[:3], scale, cap), 4 * EPS * (cap or 20 * 5 * scale))
    np.testing.assert_array_equal(got[3:], x[3:])


def test_clear(device: Device, rng: np.random.Generator) -> None:
    x = normal(rng, 4, 33)
    x[0, :2] = np.nan, np.inf
    buffer = put(device, x)
    device.clear(buffer, 3)
    np.testing.assert_array_equal(read(device, buffer), np.concatenate([np.zeros((3, 33)), x[3:]]))


# attention


@dataclasses.dataclass
class Step:
    """Rows of two sequences, and a cache that holds what they see."""

    qkv: Float32
    positions: NDArray[np.int32]
    sequence: NDArray[np.int32]
    page_table: NDArray[np.int32]
    keys: NDArray[np.generic]
    values: NDArray[np.generic]
    head_dim: int

    def places(self, device: Device, rows: slice = slice(None)) -> tuple[Buffer, Buffer, Buffer]:
        arrays = (self.positions[rows].copy(), self.sequence[rows].copy(), self.page_table)
        return device.bind(arrays[0]), device.bind(arrays[1]), device.bind(arrays[2])


N_HEADS, N_KV, PAGE = 6, 2, 8


def make_step(rng: np.random.Generator, dtype: ElementType, head_dim: int) -> Step:
    runs = [(0, 11), (29, 1), (3, 5)]  # first position, rows
    page_table = rng.permutation(12).astype(np.int32).reshape(3, 4)
    caches = [
        stored_cache(normal(rng, 12 * N_KV * PAGE, head_dim), dtype).reshape(12, N_KV, PAGE, -1)
        for _ in range(2)
    ]
    n_rows = sum(n for _, n in runs)
    return Step(
        normal(rng, n_rows, (N_HEADS + 2 * N_KV) * head_dim),
        np.concatenate([np.arange(first, first + n, dtype=np.int32) for first, n in runs]),
        np.repeat(np.arange(3, dtype=np.int32), [n for _, n in runs]),
        page_table,
        *caches,
        head_dim,
    )


def stored_cache(rows: Float32, dtype: ElementType) -> NDArray[np.generic]:
    if dtype is ElementType.Q80:
        return oracle.encode(dtype, rows)
    return rows.astype(np.float16 if dtype is ElementType.F16 else np.float32)


def loaded(cache: NDArray[np.generic], dtype: ElementType, head_dim: int) -> Floats:
    if dtype is not ElementType.Q80:
        return cache.astype(np.float64)
    rows = cache.reshape(-1, row_bytes(dtype, head_dim))
    return oracle.decode(dtype, rows, head_dim).reshape(*cache.shape[:3], head_dim)


def attend(
    device: Device,
    step: Step,
    out: Rows,
    offset: int,
    group: int,
    window: int,
    rows: slice,
    sinks: Floats | None = None,
    soft_cap: float = 0.0,
) -> None:
    qkv = step.qkv[rows].copy()
    device.attention(
        out, put(device, qkv), *step.places(device, rows), put(device, step.keys), put(device, step.values),
        N_HEADS, offset, group, window, len(qkv), None if sinks is None else put(device, sinks), soft_cap,
    )  # fmt: skip


@pytest.mark.parametrize(("offset", "group"), [(0, 3), (2, 4)])
@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (5, 0.0), (5, 1.5)])
@pytest.mark.parametrize("dtype", CACHE_TYPES)
@pytest.mark.parametrize("has_sinks", [False, True])
def test_attention(
    device: Device,
    rng: np.random.Generator,
    dtype: ElementType,
    window: int,
    soft_cap: float,
    offset: int,
    group: int,
    has_sinks: bool,
) -> None:
    step = make_step(rng, dtype, 32)
    sinks = 4 * normal(rng, N_HEADS) if has_sinks else None
    n_rows = len(step.qkv)
    out, quantised = device.buffer(n_rows, N_HEADS * 32), device.quantised_rows(n_rows, N_HEADS * 32)
    attend(device, step, out, offset, group, window, slice(None), sinks, soft_cap)
    attend(device, step, quantised, offset, group, window, slice(None), sinks, soft_cap)
    keys, values = loaded(step.keys, dtype, 32), loaded(step.values, dtype, 32)
    queries = step.qkv[:, : N_HEADS * 32].reshape(n_rows, N_HEADS, 32)
    wanted = oracle.attention(
        queries,
        step.positions,
        step.sequence,
        step.page_table,
        keys,
        values,
        offset,
        group,
        window,
        sinks,
        soft_cap,
    ).reshape(n_rows, -1)
    # As in tests/kernels/test_attention.py: the scores' rounding as a factor of weights, and that of sums.
    length = np.sqrt((keys**2).sum(-1).max() * (queries.astype(np.float64) ** 2).sum(-1).max())
    score_error = 34 * length / np.sqrt(32) + 4 * soft_cap
    bound = (2 * score_error + 2 * 30 + 16) * EPS * np.abs(values).max()
    assert_within(read(device, out), wanted, bound)
    step_size = quantisation_step(device, ElementType.Q40, np.abs(wanted) + bound)
    assert_within(
        read_rows(device, ElementType.Q40, quantised, n_rows, N_HEADS * 32), wanted, bound + step_size
    )


@pytest.mark.parametrize("n_halves", [64, 24, 0])
@pytest.mark.parametrize("dtype", CACHE_TYPES)
def test_rope_store(device: Device, rng: np.random.Generator, dtype: ElementType, n_halves: int) -> None:
    step = make_step(rng, dtype, 64)
    angle = rng.uniform(0, 6, (32, 32))
    cos_sin = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)
    qkv, keys, values = put(device, step.qkv), put(device, step.keys), put(device, step.values)
    device.rope_store(
        qkv, put(device, cos_sin), *step.places(device), keys, values, N_HEADS, n_halves, len(step.qkv)
    )
    heads = step.qkv.reshape(len(step.qkv), -1, 64)
    got = read(device, qkv).reshape(heads.shape)
    turned = N_HEADS + N_KV
    wanted = oracle.rope(heads[:, :turned], cos_sin[step.positions], n_halves)
    assert_within(got[:, :turned], wanted, 6 * EPS * np.abs(heads).max())
    np.testing.assert_array_equal(got[:, turned:], heads[:, turned:])
    page, slot = step.page_table[step.sequence, step.positions // PAGE], step.positions % PAGE
    for cache, first in ((step.keys, N_HEADS), (step.values, turned)):
        rows = np.ascontiguousarray(got[:, first : first + N_KV]).reshape(-1, 64)
        cache[page, :, slot] = stored_cache(rows, dtype).reshape(len(got), N_KV, -1)
    np.testing.assert_array_equal(read(device, keys), step.keys)  # other positions are as they were
    np.testing.assert_array_equal(read(device, values), step.values)


# logits


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_top_candidates(device: Device, rng: np.random.Generator, n: int) -> None:
    logits = 3 * normal(rng, 5, 1000)
    logits[1] = np.round(logits[1])  # equal ones
    logits[2, rng.random(1000) < 0.9] = -np.inf
    logits[3, 17] = np.nan
    temperature = np.asarray([0, 1, 0.7, 5, 1e-6], np.float32)
    ids, largest, sums = np.zeros((5, n), np.int32), np.zeros((5, n), np.float32), np.zeros((2, 5))
    device.top_candidates(ids, largest, sums, put(device, logits), temperature, 5, 5)
    places, values, wanted = oracle.top_candidates(logits, n, temperature)
    np.testing.assert_array_equal(ids, places + 5)
    np.testing.assert_array_equal(largest, values)
    exponents = np.stack([np.where(np.isfinite(logits), logits, 0)] * 2).astype(np.float64)
    exponents -= exponents.max(-1, keepdims=True)
    exponents[1] /= np.maximum(temperature, 1e-6)[:, None]
    error = (np.exp(exponents) * (2 * np.abs(exponents) + 4 + 1000 / 8)).sum(-1) * EPS + 1000 * 2.0**-125
    np.testing.assert_array_equal(np.isnan(sums), np.isnan(wanted))
    assert_within(np.nan_to_num(sums), np.nan_to_num(wanted), error)


# sums over ranks: the same bits on every device


@pytest.mark.parametrize("n", [32, 33, 127, 1056])
@pytest.mark.parametrize("n_parts", [1, 2, 5])
def test_sums_have_the_same_bits(device: Device, rng: np.random.Generator, n_parts: int, n: int) -> None:
    n_rows, n_bytes = 3, -(-n // BLOCK) * 34
    addends = normal(rng, n_parts, n_rows, n)
    parts = np.zeros((n_parts, n_rows * n_bytes + 34), np.uint8)  # the next part may lie further on
    for part, addend in zip(parts, addends, strict=True):
        own = np.zeros((n_rows, n_bytes), np.uint8)
        device.encode_q80(device.bind(own), put(device, addend), n_rows)
        np.testing.assert_array_equal(own, oracle.encode(ElementType.Q80, padded(addend)))
        part[: own.size] = own.reshape(-1)
    decoded = oracle.decode(ElementType.Q80, parts[:, :-34].reshape(-1, n_bytes), n_bytes // 34 * 32)
    total = oracle.sum_in_order(decoded.reshape(n_parts, n_rows, -1))
    rounded = oracle.encode(ElementType.Q80, total)
    of_rounded = oracle.decode(ElementType.Q80, rounded, total.shape[1])
    x, weight = normal(rng, n_rows, n), normal(rng, n)

    for is_rounded, addend in ((False, total[:, :n]), (True, of_rounded[:, :n])):
        alone, normed = put(device, x), put(device, x)
        device.add_q80(alone, device.bind(parts), n_rows, is_rounded)
        np.testing.assert_array_equal(read(device, alone), x + addend)
        out, wanted = device.buffer(n_rows, n), device.buffer(n_rows, n)
        device.add_norm_q80(out, normed, device.bind(parts), put(device, weight), 1e-5, n_rows, is_rounded)
        device.rms_norm(wanted, alone, put(device, weight), 1e-5, n_rows)
        np.testing.assert_array_equal(read(device, normed), x + addend)
        np.testing.assert_array_equal(read(device, out), read(device, wanted))

    out = np.zeros(n_rows * n_bytes, np.uint8)
    device.sum_q80(out, parts)
    np.testing.assert_array_equal(out, rounded.reshape(-1))

    plain = put(device, x)
    device.add_f32(plain, device.bind(addends.reshape(n_parts, -1)), n_rows)
    np.testing.assert_array_equal(read(device, plain), x + oracle.sum_in_order(addends))


def padded(x: Float32) -> Float32:
    return np.pad(x, [(0, 0), (0, -x.shape[1] % BLOCK)])


@pytest.mark.parametrize("n", [1, 17, 96, 1056])
def test_norms_in_order_have_the_same_bits(device: Device, rng: np.random.Generator, n: int) -> None:
    x, weight = 3 * normal(rng, 140, n), normal(rng, n)
    wanted = router_oracle.fixed_order_norm(x, weight, 1e-5)
    out, itself = device.buffer(140, n), put(device, x)
    device.rms_norm_in_order(out, itself, put(device, weight), 1e-5, 140)
    device.rms_norm_in_order(itself, itself, put(device, weight), 1e-5, 140)
    np.testing.assert_array_equal(read(device, out), wanted)
    np.testing.assert_array_equal(read(device, itself), wanted)


# rows do not know of each other


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
def test_a_product_depends_on_its_own_row_only(
    device: Device, rng: np.random.Generator, dtype: ElementType
) -> None:
    n_in = whole_blocks(dtype, 608)
    matrix = device.matrix(dtype, 50, n_in)
    assert matrix.pack(0, stored(rng, dtype, 50, n_in))
    x = normal(rng, 37, n_in)
    together, alone = device.buffer(37, 50), device.buffer(1, 50)
    device.matmul(together, matrix, put_rows(device, dtype, x), 37)
    for row in range(0, 37, 4):
        device.matmul(alone, matrix, put_rows(device, dtype, x[row : row + 1]), 1)
        np.testing.assert_array_equal(read(device, alone)[0], read(device, together)[row])


@pytest.mark.parametrize("window", [0, 5])
def test_attention_depends_on_its_own_row_only(device: Device, rng: np.random.Generator, window: int) -> None:
    step = make_step(rng, ElementType.F16, 32)
    together, alone = device.buffer(len(step.qkv), N_HEADS * 32), device.buffer(1, N_HEADS * 32)
    attend(device, step, together, 0, 3, window, slice(None))
    for row in range(len(step.qkv)):
        attend(device, step, alone, 0, 3, window, slice(row, row + 1))
        np.testing.assert_array_equal(read(device, alone)[0], read(device, together)[row])


# programs


def test_a_program_runs_with_what_its_operands_hold_then(device: Device, rng: np.random.Generator) -> None:
    x, bias = put(device, np.zeros((2, 4), np.float32)), normal(rng, 4)

    def call(times: int) -> None:
        for _ in range(times):
            device.add_bias(x, bound, 2)

    bound = device.bind(bias)
    program = device.record(call, 3)
    assert len(program) == 3
    assert not read(device, x).any()
    program.run()
    first = read(device, x)
    np.testing.assert_array_equal(first, np.tile(bias + bias + bias, (2, 1)))
    bias[:] = 1
    program.run()
    np.testing.assert_array_equal(read(device, x), first + np.float32(1) + np.float32(1) + np.float32(1))


def test_places_are_checked_in_each_run(device: Device, rng: np.random.Generator) -> None:
    step = make_step(rng, ElementType.F32, 32)
    n_rows = len(step.qkv)
    out, qkv, keys = device.buffer(n_rows, N_HEADS * 32), put(device, step.qkv), put(device, step.keys)
    bound = [device.bind(array) for array in (step.positions, step.sequence, step.page_table)]
    cos_sin = put(device, np.zeros((30, 16, 2), np.float32))

    attention = device.record(
        lambda: device.attention(out, qkv, *bound, keys, keys, N_HEADS, 0, 3, 0, n_rows)
    )
    rope = device.record(lambda: device.rope_store(qkv, cos_sin, *bound, keys, keys, N_HEADS, 32, n_rows))
    for program in (attention, rope):
        program.run()
        for array, bad, message in (
            (step.positions, 32, "positions"),
            (step.positions, -1, "positions"),
            (step.sequence, 3, "sequence"),
            (step.page_table.reshape(-1), 12, "page"),
        ):
            good = array[0]
            array[0] = bad
            with pytest.raises(ValueError, match=message):
                program.run()
            array[0] = good
    step.positions[11] = 30  # a position that the table of angles does not have
    with pytest.raises(ValueError, match="cos_sin"):
        rope.run()


def test_an_error_ends_recording(device: Device) -> None:
    x = device.buffer(2, 4)
    with pytest.raises(ValueError, match="n_rows"):
        device.record(device.add_bias, x, device.buffer(4), 3)
    with pytest.raises(ValueError, match="records already"):
        device.record(device.record, device.add_bias, x, device.buffer(4), 2)
    assert len(device.record(device.add_bias, x, device.buffer(4), 2)) == 1


def test_time_in_operations_adds_up(device: Device, rng: np.random.Generator) -> None:
    before = device.native_s
    step = make_step(rng, ElementType.F16, 32)
    attend(device, step, device.buffer(len(step.qkv), N_HEADS * 32), 0, 3, 0, slice(None))
    assert 0 < device.attention_s <= device.native_s - before


# wrong operands


@dataclasses.dataclass
class Operands:
    """Of operations on 3 rows of 64 columns."""

    device: Device

    def __post_init__(self) -> None:
        self.x, self.out = self.device.buffer(3, 64), self.device.buffer(3, 64)
        self.weight = self.device.buffer(64)
        self.matrix = self.device.matrix(ElementType.F32, 64, 64)


WRONG: list[tuple[type[Exception], Callable[[Device, Operands], None]]] = [
    (ValueError, lambda d, o: d.matmul(o.out, o.matrix, o.x, 4)),
    (ValueError, lambda d, o: d.matmul(d.buffer(3, 65), o.matrix, o.x, 3)),
    (ValueError, lambda d, o: d.matmul(d.buffer(3, 65), o.matrix, o.x, 3, first_column=2)),
    (ValueError, lambda d, o: d.matmul(d.buffer(3, 65), o.matrix, o.x, 3, first_column=-1)),
    (ValueError, lambda d, o: d.matmul(o.out, o.matrix, d.buffer(3, 65), 3)),
    (TypeError, lambda d, o: d.matmul(d.buffer(3, 64, dtype=np.int32), o.matrix, o.x, 3)),
    (TypeError, lambda d, o: d.matmul(o.out, object(), o.x, 3)),  # type: ignore[arg-type]
    (ValueError, lambda d, o: d.rms_norm(o.out, o.x, d.buffer(63), 1e-5, 3)),
    (ValueError, lambda d, o: d.rms_norm(d.buffer(3, 63), o.x, o.weight, 1e-5, 3)),
    (ValueError, lambda d, o: d.rms_norm(o.weight, o.x, o.weight, 1e-5, 3)),
    (ValueError, lambda d, o: d.layer_norm(o.out, o.x, d.buffer(63), o.weight, 1e-5, 3)),
    (ValueError, lambda d, o: d.layer_norm(o.out, o.x, o.weight, d.buffer(63), 1e-5, 3)),
    (ValueError, lambda d, o: d.layer_norm(d.buffer(3, 63), o.x, o.weight, o.weight, 1e-5, 3)),
    (ValueError, lambda d, o: d.head_rms_norm(o.x, d.buffer(16), 1e-5, 2, 3, 3)),
    (ValueError, lambda d, o: d.add_bias(o.x, d.buffer(63), 3)),
    (TypeError, lambda d, o: d.add_bias(object(), o.weight, 3)),  # type: ignore[arg-type]
    (ValueError, lambda d, o: d.encode_q80(d.buffer(3, 67, dtype=np.uint8), o.x, 3)),
    (ValueError, lambda d, o: d.add_q80(o.x, d.buffer(2, 203, dtype=np.uint8), 3)),
    (ValueError, lambda d, o: d.add_f32(o.x, d.buffer(2, 191), 3)),
    (ValueError, lambda d, o: d.gated_matmul(o.out, o.matrix, o.x, o.out, 3, "relu")),
]


@pytest.mark.parametrize("index", range(len(WRONG)))
def test_wrong_operands_are_told(device: Device, index: int) -> None:
    error, call = WRONG[index]
    with pytest.raises(error):
        call(device, Operands(device))
