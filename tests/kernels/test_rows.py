"""Norms, activations, quantisation and conversion against the oracle, for every instruction set of this machine."""

from __future__ import annotations

import numpy as np
import pytest

from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import Compute, Q80Rows, convert, oracle

from .checks import EPS, Float32, assert_within
from .stored_weights import NATIVE, stored

WIDTHS = [1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 127, 1031, 4096]
BLOCK_WIDTHS = [32, 64, 96, 1024, 1056, 4128]
EXP = 6 * EPS  # exp within 2 ulp, 1 + exp, division and product: relative


def normal(rng: np.random.Generator, rows: int, n: int, scale: float = 1) -> Float32:
    return (rng.standard_normal((rows, n)) * scale).astype(np.float32)


@pytest.mark.parametrize("n", BLOCK_WIDTHS)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1, 1e4])
def test_quantize_rows_is_the_oracle(
    compute: Compute, rng: np.random.Generator, n: int, scale: float
) -> None:
    x = normal(rng, 9, n, scale)
    x[1, :32] = 0
    x[2, :32] = 1e-42
    rows = Q80Rows(10, n)
    compute.quantize_rows(rows, x, 9)
    quants, scales, sums = oracle.quantize(x)
    np.testing.assert_array_equal(rows.quants[:9], quants)
    np.testing.assert_array_equal(rows.scales[:9], scales)
    np.testing.assert_array_equal(rows.sums[:9], sums)
    assert not rows.quants[9].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 5, 31])
def test_quantize_shows_what_is_not_finite(compute: Compute, bad: float, where: int) -> None:
    x = np.ones((1, 96), np.float32)
    x[0, 32 + where] = bad
    rows = Q80Rows(1, 96)
    compute.quantize_rows(rows, x, 1)
    assert not np.isfinite(rows.scales[0, 1])
    assert np.isfinite(rows.scales[0, [0, 2]]).all()


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("n_rows", [1, 7])
def test_rms_norm(compute: Compute, rng: np.random.Generator, n: int, n_rows: int) -> None:
    x, weight = normal(rng, n_rows, n, 3), normal(rng, 1, n)[0]
    out = np.full((n_rows + 1, n), 7, np.float32)
    compute.rms_norm(out, x, weight, 1e-5, n_rows)
    wanted = oracle.rms_norm(x, weight, 1e-5)
    assert_within(out[:n_rows], wanted, np.abs(wanted) * (n / 8 + 8) * EPS)
    assert (out[n_rows] == 7).all()
    if n % 32 == 0:
        rows = Q80Rows(n_rows, n)
        compute.rms_norm(rows, x, weight, 1e-5, n_rows)
        quants, scales, sums = oracle.quantize(out[:n_rows])
        np.testing.assert_array_equal(rows.quants, quants)
        np.testing.assert_array_equal(rows.scales, scales)
        np.testing.assert_array_equal(rows.sums, sums)


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("n_rows", [1, 7])
def test_layer_norm(compute: Compute, rng: np.random.Generator, n: int, n_rows: int) -> None:
    x, weight, bias = normal(rng, n_rows, n, 3) + 2, normal(rng, 1, n)[0], normal(rng, 1, n)[0]
    out = np.full((n_rows + 1, n), 7, np.float32)
    compute.layer_norm(out, x, weight, bias, 1e-5, n_rows)
    wanted = oracle.layer_norm(x, weight, bias, 1e-5)
    # The mean is off by what its sum loses, and every number with it.
    magnitudes = np.abs(x) + np.abs(x).mean(axis=1, keepdims=True)
    terms = magnitudes / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * np.abs(weight) + np.abs(bias)
    assert_within(out[:n_rows], wanted, terms * (n / 8 + 12) * EPS)
    assert (out[n_rows] == 7).all()
    if n % 32 == 0:
        rows = Q80Rows(n_rows, n)
        compute.layer_norm(rows, x, weight, bias, 1e-5, n_rows)
        quants, scales, sums = oracle.quantize(out[:n_rows])
        np.testing.assert_array_equal(rows.quants, quants)
        np.testing.assert_array_equal(rows.scales, scales)
        np.testing.assert_array_equal(rows.sums, sums)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("n", WIDTHS)
def test_silu_mul(compute: Compute, rng: np.random.Generator, n: int, activation: str) -> None:
    gate_up = normal(rng, 5, 2 * n, 3)
    gate_up[0, 0] = -200
    gate_up[1, 0] = 200
    out = np.zeros((5, n), np.float32)
    compute.silu_mul(out, gate_up, 5, activation)
    wanted = oracle.gated(gate_up, activation)
    # The argument of exp is rounded (gelu: four times): |argument| eps becomes a relative error.
    gate = np.abs(gate_up[:, :n].astype(np.float64))
    argument = gate if activation == "silu" else 1.6 * (gate + 0.045 * gate**3)
    flushed = 2.0**-126 * gate * np.abs(gate_up[:, n:])  # exp ends at e^88 > 2^126
    bound = np.abs(wanted) * (EXP + 4 * EPS * argument) + flushed
    assert_within(out, wanted, bound)
    if n % 32 == 0:
        rows = Q80Rows(5, n)
        compute.silu_mul(rows, gate_up, 5, activation)
        np.testing.assert_array_equal(rows.quants, oracle.quantize(out)[0])


def test_exp_is_within_2_ulp(compute: Compute) -> None:
    """silu(-x) = -x / (1 + e^x) shows e^x where it is large, softmax weights where it is small."""
    x = np.linspace(20, 86, 100_003, dtype=np.float32)
    gate_up = np.concatenate([-x, np.ones_like(x)])[None]
    out = np.zeros((1, len(x)), np.float32)
    compute.silu_mul(out, gate_up, 1, "silu")
    exponential = -x.astype(np.float64) / out[0]
    relative = np.abs(exponential / (1 + np.exp(x.astype(np.float64))) - 1)
    assert relative.max() <= 4 * EPS  # 2 ulp, and the roundings of the sum and the quotient


@pytest.mark.parametrize("n", WIDTHS)
def test_sums(compute: Compute, rng: np.random.Generator, n: int) -> None:
    x, bias = normal(rng, 4, n), normal(rng, 1, n)[0]
    got = x.copy()
    compute.add_bias(got, bias, 3)
    np.testing.assert_array_equal(got, np.concatenate([x[:3] + bias, x[3:]]))

    parts = normal(rng, 3, 4 * n)
    got = x.copy()
    compute.add_f32(got, parts, 4)
    np.testing.assert_array_equal(
        got, x + ((parts[0].reshape(4, n) + parts[1].reshape(4, n)) + parts[2].reshape(4, n))
    )


@pytest.mark.parametrize("n", WIDTHS)
def test_wire_format(compute: Compute, rng: np.random.Generator, n: int) -> None:
    x = normal(rng, 6, n)
    blocks = -(-n // 32)
    wire = np.zeros((6, blocks * 34), np.uint8)
    compute.encode_q80(wire, x, 6)
    padded = np.zeros((6, blocks * 32), np.float32)
    padded[:, :n] = x
    np.testing.assert_array_equal(wire, oracle.encode(ElementType.Q80, padded))


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("n_parts", [1, 2, 8])
def test_sums_of_what_travelled(compute: Compute, rng: np.random.Generator, n: int, n_parts: int) -> None:
    """In rank order, float32 step by step: the same bits as the oracle's, whatever they are added to."""
    n_rows, n_padded = 3, -(-n // 32) * 32
    padded = np.zeros((n_parts * n_rows, n_padded), np.float32)
    padded[:, :n] = normal(rng, n_parts * n_rows, n)
    wire = oracle.encode(ElementType.Q80, padded)
    total = oracle.sum_in_order(oracle.decode(ElementType.Q80, wire, n_padded).reshape(n_parts, n_rows, -1))
    parts = np.zeros((n_parts, n_rows * wire.shape[1] + 5), np.uint8)  # the next part may lie further on
    parts[:, :-5] = wire.reshape(n_parts, -1)
    residual = normal(rng, n_rows, n)
    got = residual.copy()
    compute.add_q80(got, parts, n_rows)
    np.testing.assert_array_equal(got, residual + total[:, :n])

    out = np.zeros(n_rows * wire.shape[1], np.uint8)
    compute.sum_q80(out, parts)
    wanted = oracle.encode(ElementType.Q80, total)
    np.testing.assert_array_equal(out.reshape(n_rows, -1), wanted)

    compute.add_q80(got := residual.copy(), parts, n_rows, rounded=True)
    np.testing.assert_array_equal(got, residual + oracle.decode(ElementType.Q80, wanted, n_padded)[:, :n])
    compute.add_q80(also := residual.copy(), out[None], n_rows)
    np.testing.assert_array_equal(also, got)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("n", WIDTHS)
def test_a_sum_and_a_norm_at_once(compute: Compute, rng: np.random.Generator, n: int, rounded: bool) -> None:
    """The same bits as one after the other, for more rows than a thread takes at a time."""
    n_rows, weight = 140, normal(rng, 1, n)[0]
    parts = np.stack([np.zeros((n_rows, -(-n // 32) * 34), np.uint8) for _ in range(2)])
    for part in parts:
        compute.encode_q80(part, normal(rng, n_rows, n), n_rows)
    parts = parts.reshape(2, -1)
    got, wanted = normal(rng, n_rows, n), np.empty((n_rows, n), np.float32)
    x = got.copy()
    compute.add_q80(x, parts, n_rows, rounded)
    compute.rms_norm(wanted, x, weight, 1e-5, n_rows)
    out = np.empty_like(wanted)
    compute.add_norm_q80(out, got, parts, weight, 1e-5, n_rows, rounded)
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("head_dim", [1, 6, 64, 128])
def test_head_rms_norm(compute: Compute, rng: np.random.Generator, head_dim: int) -> None:
    x, weight = normal(rng, 5, 7 * head_dim), normal(rng, 1, head_dim)[0]
    got = x.copy()
    compute.head_rms_norm(got, weight, 1e-6, 1, 4, 5)
    wanted = x.reshape(5, 7, head_dim).astype(np.float64)
    wanted[:, 1:5] = oracle.rms_norm(wanted[:, 1:5], weight, 1e-6)
    wanted = wanted.reshape(x.shape)
    assert_within(got, wanted, np.abs(wanted) * (head_dim / 8 + 8) * EPS)


@pytest.mark.parametrize(
    "source", [ElementType.F32, ElementType.F16, ElementType.BF16, ElementType.Q40, ElementType.Q80]
)
@pytest.mark.parametrize("target", [ElementType.F32, ElementType.F16, ElementType.Q40, ElementType.Q80])
@pytest.mark.parametrize("misaligned", [0, 1])
def test_convert(rng: np.random.Generator, source: ElementType, target: ElementType, misaligned: int) -> None:
    for n in [32, 96, 4096 + 32, *([] if source.is_blocked or target.is_blocked else [1, 31, 33])]:
        x = normal(rng, 1, n)
        if source is ElementType.BF16:
            x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
        x[0, : n // 3] *= 1e-3
        data = oracle.encode(source, x)
        src = np.zeros(data.size + misaligned, np.uint8)
        src[misaligned:] = data[0]
        out = np.zeros(row_bytes(target, n) + misaligned, np.uint8)
        assert convert(out[misaligned:], target, src[misaligned:], source, n)
        np.testing.assert_array_equal(
            out[misaligned:], oracle.encode(target, oracle.decode(source, data, n))[0]
        )


@pytest.mark.parametrize("source", NATIVE)
@pytest.mark.parametrize("target", [ElementType.F32, ElementType.F16, ElementType.Q40, ElementType.Q80])
def test_types_of_files_are_read_exactly(
    rng: np.random.Generator, source: ElementType, target: ElementType
) -> None:
    for n in (256, 1280):
        data = stored(rng, source, 1, n)
        out = np.zeros(row_bytes(target, n), np.uint8)
        assert convert(out, target, data[0], source, n)
        np.testing.assert_array_equal(out, oracle.encode(target, oracle.decode(source, data, n))[0])


@pytest.mark.parametrize("source", NATIVE)
def test_any_bytes_of_a_file_are_read_as_the_oracle_reads_them(
    rng: np.random.Generator, source: ElementType
) -> None:
    n = 64 * 256
    data = rng.integers(0, 256, (1, row_bytes(source, n)), np.uint8)
    wanted = oracle.decode(source, data, n)[0]
    out = np.zeros(4 * n, np.uint8)
    assert convert(out, ElementType.F32, data[0], source, n) == bool(np.isfinite(wanted).all())
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(out.view(np.float32)), ~numbers)
    np.testing.assert_array_equal(out.view(np.uint32)[numbers], wanted.view(np.uint32)[numbers])


def test_only_some_types_are_written() -> None:
    out, src = np.zeros(1024, np.uint8), np.zeros(1024, np.uint8)
    for target in (ElementType.BF16, *NATIVE):
        with pytest.raises(ValueError, match="out_type"):
            convert(out, target, src, ElementType.F32, 256)
    with pytest.raises(ValueError, match="must be a multiple of 256 for q4k"):
        convert(out, ElementType.F32, src, ElementType.Q4K, 128)
    with pytest.raises(ValueError, match="src_type 4 is not an element type"):
        convert(out, ElementType.F32, src, 4, 32)


@pytest.mark.parametrize("source", [ElementType.F32, ElementType.F16, ElementType.BF16])
@pytest.mark.parametrize("target", [ElementType.F32, ElementType.F16, ElementType.Q40, ElementType.Q80])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_convert_reports_what_is_not_finite(source: ElementType, target: ElementType, bad: float) -> None:
    for where in range(0, 96, 7):
        x = np.linspace(-1, 1, 96, dtype=np.float32)[None].copy()
        x[0, where] = bad
        src = oracle.encode(source, x)[0]
        assert not convert(np.zeros(row_bytes(target, 96), np.uint8), target, src, source, 96)


def test_convert_reports_float16_overflow() -> None:
    x = np.full((1, 32), 1e6, np.float32)
    src = oracle.encode(ElementType.F32, x)[0]
    assert not convert(np.zeros(64, np.uint8), ElementType.F16, src, ElementType.F32, 32)
    assert convert(np.zeros(34, np.uint8), ElementType.Q80, src, ElementType.F32, 32)
    src = oracle.encode(ElementType.F32, x * 10)[0]
    assert not convert(np.zeros(34, np.uint8), ElementType.Q80, src, ElementType.F32, 32)


def test_every_float16_is_read_exactly() -> None:
    every = np.arange(65536, dtype=np.uint16)
    finite = every[(every & 0x7C00) != 0x7C00]
    out = np.zeros(finite.size * 4, np.uint8)
    assert convert(out, ElementType.F32, finite.view(np.uint8), ElementType.F16, finite.size)
    np.testing.assert_array_equal(out.view(np.float32), finite.view(np.float16).astype(np.float32))


def test_float16_is_rounded_to_nearest_even(rng: np.random.Generator) -> None:
    bits = rng.integers(0, 0x47700000, 200_000, dtype=np.uint32)
    halves = np.arange(0, 0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    x = np.concatenate([bits.view(np.float32), ties, -ties])
    out = np.zeros(x.size * 2, np.uint8)
    assert convert(out, ElementType.F16, x.view(np.uint8), ElementType.F32, x.size)
    np.testing.assert_array_equal(out.view(np.float16), x.astype(np.float16))
