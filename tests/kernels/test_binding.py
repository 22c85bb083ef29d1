"""What the binding refuses, and that it names the argument; callers from several threads."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.kernels import (
    BoundArray,
    Compute,
    PackedMatrix,
    Program,
    Q80Rows,
    convert,
    cut_rows,
    merge_candidates,
    oracle,
    supported_isas,
)

F32, F16, BF16, Q40 = ElementType.F32, ElementType.F16, ElementType.BF16, ElementType.Q40
COMPUTE = Compute(1)
X = np.ones((4, 64), np.float32)
ROWS = Q80Rows(4, 64)
BLOCKED = PackedMatrix(COMPUTE, ElementType.Q40, 8, 64)
PLAIN = PackedMatrix(COMPUTE, ElementType.F32, 8, 64)
BLOCKS, CUT = np.zeros((3, 144), np.uint8), np.zeros((3, 48), np.uint8)  # rows of Q4K, and two runs of each
OUT = np.zeros((4, 8), np.float32)
ONES = np.ones(64, np.float32)


def paged(**changes: Any) -> dict[str, Any]:
    """Arguments of a sound call of attention with 2 rows, H 2, K 1, E 8, P 4, with some changed."""
    cache = np.zeros((3, 1, 4, 8), np.float32)
    sound: dict[str, Any] = {
        "out": np.zeros((2, 16), np.float32),
        "qkv": np.zeros((2, 32), np.float32),
        "positions": np.array([0, 5], np.int32),
        "sequence": np.array([0, 1], np.int32),
        "page_table": np.array([[0, -1], [1, 2]], np.int32),
        "k_cache": cache,
        "v_cache": cache.copy(),
        "n_heads": 2,
        "head_offset": 0,
        "group": 2,
        "window": 0,
        "n_rows": 2,
    }
    return sound | changes


def top_candidates(**changes: Any) -> None:
    """A sound call with 4 rows of 64 logits, with some arguments changed."""
    sound: dict[str, Any] = {
        "ids": np.zeros((4, 8), np.int32),
        "largest": np.zeros((4, 8), np.float32),
        "sums": np.zeros((2, 4)),
        "logits": X,
        "temperature": np.ones(4, np.float32),
        "first_id": 0,
        "n_rows": 4,
    }
    COMPUTE.top_candidates(**(sound | changes))


def merge(**changes: Any) -> None:
    """A sound call with 4 rows of two parts, with some arguments changed."""
    part = (
        np.zeros((4, 3), np.int32),
        np.zeros((4, 3), np.float32),
        np.ones((2, 4)),
        np.zeros(4, np.float32),
    )
    sound: dict[str, Any] = {
        "ids": np.zeros((4, 6), np.int32),
        "logits": np.zeros((4, 6), np.float32),
        "log_sums": np.zeros((2, 4)),
        "target_logits": np.zeros(4, np.float32),
        "parts": [part, part],
        "temperature": np.ones(4, np.float32),
    }
    merge_candidates(**(sound | changes))


def part_of(**changes: Any) -> list[tuple[Any, ...]]:
    """One part of 4 rows and 6 candidates, with some arrays changed."""
    sound: dict[str, Any] = {
        "ids": np.zeros((4, 6), np.int32),
        "logits": np.zeros((4, 6), np.float32),
        "sums": np.ones((2, 4)),
        "target_logits": np.zeros(4, np.float32),
    }
    return [tuple((sound | changes).values())]


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Compute(0), ValueError, "n_threads"),
        (lambda: Compute(1, "mmx"), ValueError, "mmx.*scalar"),
        (lambda: PackedMatrix(COMPUTE, ElementType.Q40, 8, 65), ValueError, "n_in"),
        (lambda: PackedMatrix(COMPUTE, ElementType.BF16, 8, 64), ValueError, "dtype"),
        (lambda: PackedMatrix(COMPUTE, ElementType.Q4K, 8, 48), ValueError, "n_in must be a multiple of 32 for q4k"),
        (lambda: PackedMatrix(COMPUTE, ElementType.Q4K, 8, 64, 16), ValueError, "first_in must be a multiple of 32"),
        (lambda: PackedMatrix(COMPUTE, ElementType.Q4K, 8, 64, -32), ValueError, "first_in"),
        (lambda: cut_rows(CUT, ElementType.F32, BLOCKS, 32, 64), ValueError, "dtype"),
        (lambda: cut_rows(CUT, ElementType.Q4K, BLOCKS, -32, 64), ValueError, "first_in"),
        (lambda: cut_rows(CUT, ElementType.Q4K, BLOCKS, 32, 65), ValueError, "n_in"),
        (lambda: cut_rows(CUT, ElementType.Q4K, BLOCKS, 224, 64), ValueError, r"blocks.shape\[1\] must be 288"),
        (lambda: cut_rows(CUT, ElementType.Q4K, BLOCKS, 32, 96), ValueError, r"out.shape\[1\] must be 64"),
        (lambda: cut_rows(CUT[:2], ElementType.Q4K, BLOCKS, 32, 64), ValueError, r"out.shape\[0\] must be 3"),
        (lambda: cut_rows(read_only(CUT), ElementType.Q4K, BLOCKS, 32, 64), ValueError, "out.*writable"),
        (lambda: BLOCKED.pack(7, np.zeros((2, 36), np.uint8)), ValueError, "first_row"),
        (lambda: BLOCKED.pack(-1, np.zeros((2, 36), np.uint8)), ValueError, "first_row"),
        (lambda: BLOCKED.pack(0, np.zeros((2, 34), np.uint8)), ValueError, r"rows.shape\[1\] must be 36, not 34"),
        (lambda: BLOCKED.unpack(5, 4), ValueError, "first_row"),
        (lambda: Q80Rows(1, 33), ValueError, "n must be"),
        (lambda: COMPUTE.matmul(OUT, BLOCKED, X, 1), TypeError, "x must be Q80Rows"),
        (lambda: COMPUTE.matmul(OUT, PLAIN, ROWS, 1), TypeError, "x must be float32"),
        (lambda: COMPUTE.matmul(OUT, BLOCKED, Q80Rows(4, 32), 1), ValueError, "x must"),
        (lambda: COMPUTE.matmul(OUT, BLOCKED, ROWS, 5), ValueError, "n_rows 5"),
        (lambda: COMPUTE.matmul(OUT, BLOCKED, ROWS, -1), ValueError, "n_rows -1"),
        (lambda: COMPUTE.matmul(OUT[:, :4].copy(), BLOCKED, ROWS, 1), ValueError, r"out.shape\[1\] must be 8"),
        (lambda: COMPUTE.matmul(OUT.astype(np.float64), BLOCKED, ROWS, 1), TypeError, "out must be float32"),
        (lambda: COMPUTE.matmul(np.zeros((4, 16), np.float32)[:, ::2], BLOCKED, ROWS, 1), ValueError, "out.*contig"),
        (lambda: COMPUTE.matmul(read_only(OUT), BLOCKED, ROWS, 1), ValueError, "out.*writable"),
        (lambda: COMPUTE.quantize_rows(OUT, X, 1), TypeError, "out must be Q80Rows"),  # type: ignore[arg-type]
        (lambda: COMPUTE.quantize_rows(ROWS, [[1.0]], 1), TypeError, "x must be an array"),  # type: ignore[arg-type]
        (lambda: COMPUTE.rms_norm(ROWS, X, ONES[:32].copy(), 1e-5, 1), ValueError, "weight"),
        (lambda: COMPUTE.rms_norm(ROWS, X[0], ONES, 1e-5, 1), ValueError, "x must have 2 dimensions, not 1"),
        (lambda: COMPUTE.layer_norm(ROWS, X, ONES, ONES[:32].copy(), 1e-5, 1), ValueError, "bias"),
        (lambda: COMPUTE.silu_mul(OUT, X, 1, "silu"), ValueError, "out.shape"),
        (lambda: COMPUTE.silu_mul(Q80Rows(4, 32), X, 1, "relu"), ValueError, "activation"),
        (lambda: COMPUTE.add_bias(X, OUT[0].copy(), 1), ValueError, "bias"),
        (lambda: COMPUTE.head_rms_norm(X, np.ones(16, np.float32), 1e-5, 2, 3, 1), ValueError, "n_heads"),
        (lambda: top_candidates(ids=np.zeros((4, 9), np.int32)), ValueError, r"ids.shape\[1\] must be 8"),
        (lambda: top_candidates(largest=np.zeros((4, 65), np.float32)), ValueError, "largest must have 1 to"),
        (lambda: top_candidates(largest=np.zeros((4, 0), np.float32)), ValueError, "largest must have 1 to"),
        (lambda: top_candidates(sums=np.zeros((2, 4), np.float32)), TypeError, "sums must be float64"),
        (lambda: top_candidates(sums=np.zeros((2, 3))), ValueError, r"sums.shape\[1\] must be 4"),
        (lambda: top_candidates(temperature=np.zeros(3, np.float32)), ValueError, r"temperature.shape\[0\]"),
        (lambda: top_candidates(first_id=2**31 - 64), ValueError, "first_id"),
        (lambda: top_candidates(n_rows=5), ValueError, "n_rows 5"),
        (lambda: merge(ids=np.zeros((3, 6), np.int32)), ValueError, r"ids.shape\[0\] must be 4, not 3"),
        (lambda: merge(ids=np.zeros((4, 5), np.int32)), ValueError, r"logits.shape\[1\] must be 5, not 6"),
        (lambda: merge(logits=read_only(np.zeros((4, 6), np.float32))), ValueError, "logits.*writable"),
        (lambda: merge(log_sums=np.zeros((1, 4))), ValueError, r"log_sums.shape\[0\] must be 2"),
        (lambda: merge(target_logits=np.zeros(5, np.float32)), ValueError, r"target_logits.shape\[0\] must be 4"),
        (lambda: merge(temperature=np.ones(4)), TypeError, "temperature must be float32"),
        (lambda: merge(parts=[]), ValueError, "ids must have at most as many columns"),
        (lambda: merge(parts=[(1, 2, 3)]), ValueError, "parts must be tuples of four arrays"),
        (lambda: merge(parts=part_of(ids=np.zeros((4, 5), np.int32))), ValueError, r"ids.shape\[1\] must be 6"),
        (lambda: merge(parts=part_of(logits=np.zeros((5, 6), np.float32))), ValueError, r"logits.shape\[0\]"),
        (lambda: merge(parts=part_of(logits=np.zeros((4, 0), np.float32))), ValueError, r"at least 1, not 0"),
        (lambda: merge(parts=part_of(sums=np.zeros((2, 3)))), ValueError, r"sums.shape\[1\] must be 4"),
        (lambda: merge(parts=part_of(target_logits=np.zeros(3, np.float32))), ValueError, "target_logits"),
        (lambda: COMPUTE.encode_q80(np.zeros((4, 34), np.uint8), X, 1), ValueError, "out"),
        (lambda: COMPUTE.add_q80(X, np.zeros((2, 68), np.uint8), 2), ValueError, "parts"),
        (lambda: COMPUTE.add_f32(X, np.zeros((2, 64), np.float32), 2), ValueError, "parts"),
        (lambda: COMPUTE.add_f32(X, np.zeros((0, 64), np.float32), 0), ValueError, "parts"),
        (lambda: COMPUTE.sum_q80(np.zeros(35, np.uint8), np.zeros((2, 68), np.uint8)), ValueError, "out"),
        (lambda: COMPUTE.sum_q80(np.zeros(68, np.uint8), np.zeros((2, 34), np.uint8)), ValueError, "parts"),
        (lambda: convert(np.zeros(8, np.uint8), F16, np.zeros(8, np.uint8), F16, 5), ValueError, "out"),
        (lambda: convert(np.zeros(18, np.uint8), Q40, np.zeros(128, np.uint8), F32, 31), ValueError, "n_elements"),
        (lambda: convert(np.zeros(64, np.uint8), BF16, np.zeros(128, np.uint8), F32, 32), ValueError, "out_type"),
    ],
)  # fmt: skip
def test_refuses(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.array([0, 8], np.int32)}, "positions"),
        ({"positions": np.array([0, -1], np.int32)}, "positions"),
        ({"positions": np.array([4, 5], np.int32)}, "page_table"),
        ({"sequence": np.array([0, 2], np.int32)}, "sequence"),
        ({"page_table": np.array([[0, -1], [1, 3]], np.int32)}, "page_table"),
        ({"v_cache": np.zeros((3, 1, 4, 4), np.float32)}, "v_cache"),
        ({"group": 1}, "n_heads"),
        ({"group": 0}, "group"),
        ({"head_offset": 1}, "n_heads"),
        ({"window": -1}, "window"),
        ({"n_heads": 1}, "out"),
        ({"n_rows": 3}, "n_rows"),
    ],
)
def test_attention_refuses(changes: dict[str, Any], message: str) -> None:
    COMPUTE.attention(**paged())
    with pytest.raises(ValueError, match=message):
        COMPUTE.attention(**paged(**changes))


def test_attention_wants_caches_of_one_type() -> None:
    with pytest.raises(TypeError, match="v_cache"):
        COMPUTE.attention(**paged(v_cache=np.zeros((3, 1, 4, 8), np.float16)))


def test_no_rows_is_no_work() -> None:
    COMPUTE.matmul(OUT, BLOCKED, ROWS, 0)
    COMPUTE.rms_norm(ROWS, X, ONES, 1e-5, 0)
    COMPUTE.attention(**paged(n_rows=0))


def test_best_isa_comes_first() -> None:
    assert Compute(1).isa == supported_isas()[0]
    assert supported_isas()[-1] == "scalar"


def test_scales_that_are_not_finite_are_reported() -> None:
    for dtype in (ElementType.Q40, ElementType.Q80, ElementType.F16, ElementType.F32):
        matrix = PackedMatrix(COMPUTE, dtype, 8, 64)
        data = oracle.encode(dtype, np.ones((8, 64), np.float32)).copy()
        assert matrix.pack(0, data)
        bad = oracle.encode(
            ElementType.F16 if dtype.is_blocked else dtype, np.full((1, 1), np.nan, np.float32)
        )
        data[5, : bad.size] = bad
        assert not matrix.pack(0, data)
        assert not matrix.pack(5, data[5:6])
        assert matrix.pack(0, data[:5])


def test_weights_and_activations_at_the_ends_of_their_range() -> None:
    """-128 in a foreign Q80 file, nibbles 0 and 15, against activations of -127 and 127."""
    for isa in supported_isas():
        compute = Compute(1, isa)
        x = np.where(np.arange(256).reshape(4, 64) % 3 == 0, -1, 1).astype(np.float32)
        x[0], x[1] = 1, -1
        rows = Q80Rows(4, 64)
        compute.quantize_rows(rows, x, 4)
        assert rows.quants.min() == -127
        assert rows.quants.max() == 127
        values = rows.quants.astype(np.int64)
        scale = np.float16(1).view(np.uint16)
        for byte in (0x80, 0x7F, 0x00, 0xFF, 0xF0):
            for dtype, step in ((ElementType.Q40, 18), (ElementType.Q80, 34)):
                data = np.full((9, 2 * step), byte, np.uint8)
                data.reshape(9, 2, step)[:, :, :2] = np.frombuffer(scale.tobytes(), np.uint8)
                matrix = PackedMatrix(compute, dtype, 9, 64)
                assert matrix.pack(0, data)
                out = np.zeros((4, 9), np.float32)
                compute.matmul(out, matrix, rows, 4)
                blocks = (values @ oracle.decode(dtype, data, 64).astype(np.int64).T).astype(np.float64)
                np.testing.assert_allclose(out, blocks * rows.scales[:, :1], rtol=2**-22)


def test_callers_from_several_threads_take_turns(rng: np.random.Generator) -> None:
    compute = Compute(3)
    data = oracle.encode(ElementType.Q40, rng.standard_normal((300, 256)).astype(np.float32))
    matrix = PackedMatrix(compute, ElementType.Q40, 300, 256)
    packers = [threading.Thread(target=matrix.pack, args=(i, data[i : i + 75])) for i in range(0, 300, 75)]
    for packer in packers:
        packer.start()
    for packer in packers:
        packer.join()
    np.testing.assert_array_equal(matrix.unpack(0, 300), data)

    inputs = rng.standard_normal((4, 5, 256)).astype(np.float32)
    results = np.zeros((4, 5, 300), np.float32)

    def work(i: int) -> None:
        rows = Q80Rows(5, 256)
        for _ in range(200):
            compute.quantize_rows(rows, inputs[i], 5)
            compute.matmul(results[i], matrix, rows, 5)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    alone = Q80Rows(5, 256)
    for i in range(4):
        out = np.zeros((5, 300), np.float32)
        compute.quantize_rows(alone, inputs[i], 5)
        compute.matmul(out, matrix, alone, 5)
        np.testing.assert_array_equal(results[i], out)


def test_idle_threads_sleep() -> None:
    compute = Compute(4)
    x = np.zeros((64, 4096), np.float32)
    compute.add_bias(x, x[0].copy(), 64)
    before = time.process_time()
    threading.Event().wait(0.2)
    assert time.process_time() - before < 0.05  # three spinning threads would have used 0.4 s of two cores


def test_a_bound_array_stands_for_its_array() -> None:
    compute = Compute(1)
    x = np.arange(64, dtype=np.float32).reshape(1, 64)
    wanted = np.empty_like(x)
    compute.rms_norm(wanted, x, np.ones(64, np.float32), 1e-5, 1)
    out = np.zeros_like(x)
    compute.rms_norm(BoundArray(out), BoundArray(x), BoundArray(np.ones(64, np.float32)), 1e-5, 1)
    np.testing.assert_array_equal(out, wanted)


def test_a_bound_array_is_checked_as_its_array() -> None:
    compute = Compute(1)
    x, weight = np.ones((1, 64), np.float32), BoundArray(np.ones(64, np.float32))
    fixed = np.zeros((1, 64), np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        compute.rms_norm(BoundArray(fixed), x, weight, 1e-5, 1)
    with pytest.raises(TypeError, match="x must be float32"):
        compute.rms_norm(np.empty_like(x), BoundArray(x.astype(np.float64)), weight, 1e-5, 1)
    with pytest.raises(ValueError, match="weight"):
        compute.rms_norm(np.empty_like(x), x, BoundArray(np.ones(32, np.float32)), 1e-5, 1)
    with pytest.raises(ValueError, match="C-contiguous"):
        BoundArray(np.ones((4, 4), np.float32)[:, ::2])


def test_a_program_does_what_its_operations_do(rng: np.random.Generator) -> None:
    compute = Compute(2)
    weights = oracle.encode(Q40, rng.standard_normal((8, 64)).astype(np.float32))
    matrix = PackedMatrix(compute, Q40, 8, 64)
    assert matrix.pack(0, weights)
    x, out = np.zeros((4, 64), np.float32), np.full((4, 8), np.nan, np.float32)

    def call(rows: Q80Rows, to: np.ndarray) -> None:
        compute.rms_norm(rows, x, ONES, 1e-5, 4)
        compute.matmul(to, matrix, rows, 4)

    program = compute.record(call, Q80Rows(4, 64), out)
    assert len(program) == 2
    assert np.isnan(out).all(), "recorded operations were carried out"
    for _ in range(2):  # with what is in the arrays then
        x[:] = rng.standard_normal(x.shape)
        wanted = np.empty_like(out)
        call(Q80Rows(4, 64), wanted)
        program.run()
        np.testing.assert_array_equal(out, wanted)


def test_a_program_checks_positions_and_pages_in_each_run() -> None:
    sound = paged()
    program = COMPUTE.record(lambda: COMPUTE.attention(**sound))
    program.run()
    sound["positions"][1] = 8
    with pytest.raises(ValueError, match="positions has a position outside page_table"):
        program.run()
    sound["positions"][1] = 5
    sound["page_table"][1, 1] = 3
    with pytest.raises(ValueError, match="page_table has a page outside the cache"):
        program.run()
    sound["page_table"][1, 1] = 2
    program.run()


def test_recording_ends_with_the_call() -> None:
    with pytest.raises(TypeError, match="matrix must be a PackedMatrix"):
        COMPUTE.record(COMPUTE.matmul, OUT, OUT, ROWS, 4)
    with pytest.raises(ValueError, match="compute records already"):
        COMPUTE.record(COMPUTE.record, list)
    out = np.zeros((4, 64), np.float32)
    COMPUTE.rms_norm(out, X, ONES, 1e-5, 4)
    assert out.any(), "an operation after a failed recording was recorded"


def test_a_program_keeps_its_objects_alive() -> None:
    def make() -> tuple[Program, np.ndarray]:
        compute, out = Compute(1), np.zeros((4, 64), np.float32)
        return compute.record(lambda: compute.rms_norm(out, X.copy(), ONES.copy(), 0.0, 4)), out

    program, out = make()
    program.run()
    np.testing.assert_allclose(out, 1, rtol=1e-6)


def test_operations_of_other_threads_are_not_recorded() -> None:
    out = np.zeros((4, 64), np.float32)

    def call() -> None:
        other = threading.Thread(target=COMPUTE.rms_norm, args=(out, X, ONES, 0.0, 4))
        other.start()
        other.join()

    assert len(COMPUTE.record(call)) == 0
    assert out.any()
