"""Mixtures of experts against the oracle, for every instruction set that this machine has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.kernels import Compute, PackedStack, Q80Rows, RoutedRows, experts_oracle, oracle, router_oracle
from dllama.kernels.router_oracle import Rule

from .checks import EPS, assert_within
from .stored_weights import BLOCKED as ALL_BLOCKED
from .stored_weights import PLAIN, stored
from .test_matmul import packed, quantized

Arrays = np.ndarray
BLOCKED = [ElementType.Q40, ElementType.Q80]


def routed(
    compute: Compute, x: Arrays, norm: Arrays, weights: Arrays, top_k: int, renormalised: bool = True
) -> RoutedRows:
    routing = RoutedRows(len(x), len(weights), top_k)
    compute.route(routing, x, norm, 1e-6, weights, len(x), renormalised)
    return routing


def stack_of(compute: Compute, dtype: ElementType, matrices: Arrays) -> tuple[PackedStack, Arrays]:
    """The stack, and the weights it stands for."""
    stack = PackedStack(compute, dtype, *matrices.shape)
    values = np.empty_like(matrices)
    for index, matrix in enumerate(matrices):
        data = oracle.encode(dtype, matrix)
        assert stack.pack(index, 0, data)
        values[index] = oracle.decode(dtype, data, matrix.shape[1])
    return stack, values


@dataclasses.dataclass
class Mixture:
    """Random experts of one type, and rows of the residual stream with their routes."""

    compute: Compute
    dtype: ElementType
    gate_up: PackedStack
    down: PackedStack
    gate: Arrays  # [n_experts, F, D]
    up: Arrays
    down_values: Arrays  # [n_experts, D, F]
    router: Arrays

    def run(self, compute: Compute, x: Arrays, before: Arrays | None = None) -> tuple[Arrays, RoutedRows]:
        """What the experts make of rows [T, D], added to `before` or not."""
        n_rows, (n_experts, n_ffn, dim) = len(x), self.gate.shape
        norm = np.ones(dim, np.float32)
        routing = RoutedRows(n_rows, n_experts, TOP_K)
        compute.route(routing, x, norm, 1e-6, self.router, n_rows, True)
        source = quantized(compute, x)[0] if self.dtype.is_blocked else x
        activated = rows_for(self.dtype, n_rows * TOP_K, n_ffn)
        compute.experts_gated(activated, self.gate_up, source, routing, n_rows, "silu")
        out = np.full((n_rows, dim), np.nan, np.float32) if before is None else before.copy()
        compute.experts_down(out, self.down, activated, routing, n_rows, before is not None)
        return out, routing


TOP_K = 3


def rows_for(dtype: ElementType, n_rows: int, n: int) -> Q80Rows | Arrays:
    return Q80Rows(n_rows, n) if dtype.is_blocked else np.full((n_rows, n), np.nan, np.float32)


def mixture(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_experts: int, n_ffn: int, dim: int
) -> Mixture:
    def normal(*shape: int) -> Arrays:
        return rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))

    pairs = normal(n_experts, 2, n_ffn, dim)
    gate_up, gate_up_values = stack_of(compute, dtype, pairs.reshape(2 * n_experts, n_ffn, dim))
    down, down_values = stack_of(compute, dtype, normal(n_experts, dim, n_ffn))
    return Mixture(
        compute,
        dtype,
        gate_up,
        down,
        gate_up_values[::2],
        gate_up_values[1::2],
        down_values,
        normal(n_experts, dim),
    )


@pytest.mark.parametrize("renormalised", [True, False])
@pytest.mark.parametrize(
    ("n_rows", "n_experts", "dim", "top_k"),
    [(1, 1, 1, 1), (1, 128, 2048, 8), (3, 5, 31, 5), (17, 13, 48, 2), (70, 33, 130, 4)],
)
def test_routes_are_the_same_bits_everywhere(
    compute: Compute,
    rng: np.random.Generator,
    n_rows: int,
    n_experts: int,
    dim: int,
    top_k: int,
    renormalised: bool,
) -> None:
    x = rng.standard_normal((n_rows, dim)).astype(np.float32) * np.float32(3)
    norm, weights = (rng.standard_normal(shape).astype(np.float32) for shape in (dim, (n_experts, dim)))
    rule = Rule(top_k=top_k, renormalised=renormalised)
    wanted = router_oracle.route(x, norm, 1e-6, weights, rule)
    got = routed(compute, x, norm, weights, top_k, renormalised)
    np.testing.assert_array_equal(got.logits, wanted.logits)
    np.testing.assert_array_equal(got.ids, wanted.ids)
    np.testing.assert_array_equal(got.weights, wanted.weights)


RULES = {
    "sigmoids": Rule(top_k=4, renormalised=True, sigmoid=True),
    "sigmoids as they are": Rule(top_k=4, renormalised=False, sigmoid=True, scale=2.5),
    "groups by two": Rule(
        top_k=4, renormalised=True, sigmoid=True, n_groups=6, top_groups=2, group_best=2, scale=1.8
    ),
    "groups of one": Rule(top_k=4, renormalised=True, sigmoid=True, n_groups=24, top_groups=5, group_best=1),
    "groups of softmax": Rule(top_k=4, renormalised=False, n_groups=4, top_groups=3, scale=16.0),
    "groups of softmax, renormalised": Rule(top_k=4, renormalised=True, n_groups=8, top_groups=2),
}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_rules_are_the_same_bits_everywhere(
    compute: Compute, rng: np.random.Generator, name: str, biased: bool
) -> None:
    x, norm, weights = (rng.standard_normal(shape).astype(np.float32) for shape in ((70, 96), 96, (24, 96)))
    bias = rng.standard_normal(24).astype(np.float32) / 4 if biased and RULES[name].sigmoid else None
    rule = dataclasses.replace(RULES[name], choice_bias=bias)
    wanted = router_oracle.route(x, norm, 1e-6, weights, rule)
    got = RoutedRows(len(x), len(weights), rule.top_k)
    numbers = dataclasses.asdict(rule)
    del numbers["top_k"]
    compute.route(got, x, norm, 1e-6, weights, len(x), **numbers)
    np.testing.assert_array_equal(got.ids, wanted.ids)
    np.testing.assert_array_equal(got.weights, wanted.weights)


def test_sigmoids_and_groups_of_the_oracle(rng: np.random.Generator) -> None:
    """As they are said, in float64."""
    x, weights = (rng.standard_normal((n, 96)).astype(np.float32) for n in (40, 24))
    bias = rng.standard_normal(24).astype(np.float32)
    rule = dataclasses.replace(RULES["groups by two"], choice_bias=bias)
    got = router_oracle.route(x, np.ones(96, np.float32), 1e-6, weights, rule)
    scores = 1 / (1 + np.exp(-got.logits.astype(np.float64)))
    groups = (scores + bias).reshape(40, 6, 4)
    of_groups = np.sort(groups, axis=2)[:, :, 2:].sum(axis=2)
    for row in range(40):
        taken = np.argsort(-of_groups[row])[:2]
        allowed = [expert for expert in range(24) if expert // 4 in taken]
        best = sorted(allowed, key=lambda expert: -(scores + bias)[row, expert])[:4]
        assert got.ids[row].tolist() == best
        wanted = 1.8 * scores[row, best] / scores[row, best].sum()
        # Twice 3 ulp and the rounding of an argument below 64 in the exponentials, then some of each by itself.
        assert_within(got.weights[row], wanted, (6 + 64 + 10) * EPS * wanted)


def test_oracle_is_softmax(rng: np.random.Generator) -> None:
    x, weights = (rng.standard_normal((n, 200)).astype(np.float32) for n in (40, 24))
    got = router_oracle.route(x, np.ones(200, np.float32), 1e-6, weights, Rule(top_k=6, renormalised=False))
    normed = oracle.rms_norm(x, np.ones(200), 1e-6)
    logits = oracle.matmul(weights, normed)
    # The norm and each product round three times, sums run in 16 lanes of 13 and a tree of 4.
    bound = (2 * (200 / 16 + 4) + 6) * EPS * oracle.matmul(np.abs(weights), np.abs(normed))
    assert_within(got.logits, logits, bound)
    exact = np.exp(got.logits.astype(np.float64))
    probabilities = np.take_along_axis(exact / exact.sum(1, keepdims=True), got.ids, axis=1)
    # Twice 3 ulp of the exponential, its argument's rounding (|logits| < 64), 24 sums and a division.
    assert_within(got.weights, probabilities, (6 + 64 + 24 + 2) * EPS * probabilities)


def test_equal_logits_choose_the_lower_ids(compute: Compute) -> None:
    x, norm = np.ones((2, 32), np.float32), np.ones(32, np.float32)
    weights = np.zeros((9, 32), np.float32)
    weights[[2, 5, 7]] = 1
    got = routed(compute, x, norm, weights, 5)
    np.testing.assert_array_equal(got.ids, [[2, 5, 7, 0, 1]] * 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_to_valid_experts(compute: Compute, value: float) -> None:
    x = np.ones((3, 40), np.float32)
    x[1, 7] = value
    rng = np.random.default_rng(3)
    got = routed(compute, x, np.ones(40, np.float32), rng.standard_normal((6, 40)).astype(np.float32), 4)
    assert all(len(set(row)) == 4 and set(row) <= set(range(6)) for row in got.ids.tolist())
    assert np.isnan(got.weights[1]).all()
    assert np.isfinite(got.weights[[0, 2]]).all()


@pytest.mark.parametrize("n_rows", [1, 2, 7, 40])
@pytest.mark.parametrize(("n_experts", "n_ffn", "dim"), [(3, 32, 32), (7, 96, 64), (5, 288, 160)])
@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_experts_match_the_oracle(
    compute: Compute,
    rng: np.random.Generator,
    dtype: ElementType,
    n_experts: int,
    n_ffn: int,
    dim: int,
    n_rows: int,
) -> None:
    of = mixture(compute, rng, dtype, n_experts, n_ffn, dim)
    x = rng.standard_normal((n_rows, dim)).astype(np.float32)
    routing = routed(compute, x, np.ones(dim, np.float32), of.router, TOP_K)
    source, values = quantized(compute, x) if dtype.is_blocked else (x, x)
    slot_row, slot_place = experts_oracle.by_slot(routing.ids)

    floats = np.full((n_rows * TOP_K, n_ffn), np.nan, np.float32)
    compute.experts_gated(floats, of.gate_up, source, routing, n_rows, "silu")
    wanted = experts_oracle.experts_gated(of.gate, of.up, values, routing.ids, "silu")[slot_row, slot_place]
    norms = (
        np.einsum("efd,td->tef", np.abs(of.gate), np.abs(values)),
        np.einsum("efd,td->tef", np.abs(of.up), np.abs(values)),
    )
    gate_norm, up_norm = (norm[slot_row, routing.ids[slot_row, slot_place]] for norm in norms)
    # Each product rounds as often as in test_matmul.py; silu has a slope of at most 1.1, and an error of 6 ulp.
    rounds = dim / 32 + 3 if dtype.is_blocked else 2 * 128 + dim / 128 + 2
    assert_within(floats, wanted, (2.2 * rounds + 8) * EPS * gate_norm * up_norm)

    activated = rows_for(dtype, n_rows * TOP_K, n_ffn)
    compute.experts_gated(activated, of.gate_up, source, routing, n_rows, "silu")
    if isinstance(activated, Q80Rows):
        again = Q80Rows(n_rows * TOP_K, n_ffn)
        compute.quantize_rows(again, floats, n_rows * TOP_K)
        np.testing.assert_array_equal(activated.quants, again.quants)
        np.testing.assert_array_equal(activated.scales, again.scales)
        np.testing.assert_array_equal(activated.sums, again.sums)
        of_slots = activated.quants * np.repeat(activated.scales, 32, axis=1)
    else:
        of_slots = activated
    of_rows = np.empty((n_rows, TOP_K, n_ffn), np.float32)
    of_rows[slot_row, slot_place] = of_slots
    out = np.full((n_rows, dim), np.nan, np.float32)
    compute.experts_down(out, of.down, activated, routing, n_rows)
    wanted = experts_oracle.experts_down(of.down_values, of_rows, routing.ids, routing.weights)
    sums = experts_oracle.experts_down(np.abs(of.down_values), np.abs(of_rows), routing.ids, routing.weights)
    rounds = n_ffn / 32 + 3 if dtype.is_blocked else 2 * 128 + n_ffn / 128 + 2
    assert_within(out, wanted, (rounds + 2 * TOP_K) * EPS * sums)


@pytest.mark.parametrize("dtype", BLOCKED + PLAIN)
def test_a_row_is_computed_as_if_it_were_alone(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    """... whatever shares its experts, and however many threads there are: one expert gets more than 128 rows."""
    of = mixture(compute, rng, dtype, 6, 96, 608)
    x = rng.standard_normal((290, 608)).astype(np.float32)
    x[:200] += 4 * of.router[2]  # experts 2 and others
    together, routing = of.run(compute, x)
    assert (routing.ids == 2).sum() > 128
    for n_threads in (1, 3):
        again, _ = of.run(Compute(n_threads, compute.isa), x)
        np.testing.assert_array_equal(again, together)
    for begin, end in [(0, 1), (7, 9), (128, 133), (250, 290)]:
        some, _ = of.run(compute, x[begin:end].copy())
        np.testing.assert_array_equal(some, together[begin:end])


@pytest.mark.parametrize("dtype", [ElementType.Q40, ElementType.F32])
def test_the_sum_is_added_to_what_is_there(
    compute: Compute, rng: np.random.Generator, dtype: ElementType
) -> None:
    of = mixture(compute, rng, dtype, 4, 64, 96)
    x = rng.standard_normal((5, 96)).astype(np.float32)
    alone, _ = of.run(compute, x)
    added, _ = of.run(compute, x, before=x)
    assert_within(added, x + alone.astype(np.float64), 8 * EPS * (np.abs(x) + np.abs(alone) + 1))


def test_recorded_operations_follow_the_router(rng: np.random.Generator) -> None:
    compute = Compute(2)
    of = mixture(compute, rng, ElementType.Q40, 8, 64, 96)
    x, out = np.zeros((9, 96), np.float32), np.zeros((9, 96), np.float32)
    source, activated, routing = Q80Rows(9, 96), Q80Rows(9 * TOP_K, 64), RoutedRows(9, 8, TOP_K)

    def call() -> None:
        compute.quantize_rows(source, x, 9)
        compute.route(routing, x, np.ones(96, np.float32), 1e-6, of.router, 9, True)
        compute.experts_gated(activated, of.gate_up, source, routing, 9, "silu")
        compute.experts_down(out, of.down, activated, routing, 9)

    program = compute.record(call)
    for _ in range(3):
        x[:] = rng.standard_normal(x.shape)
        program.run()
        np.testing.assert_array_equal(out, of.run(compute, x)[0])


@pytest.mark.parametrize("n_rows", [3, 21])
@pytest.mark.parametrize("dtype", ALL_BLOCKED)
def test_experts_are_matrices(
    compute: Compute, rng: np.random.Generator, dtype: ElementType, n_rows: int
) -> None:
    """Of every element type, bit for bit: an expert's projections are those of dense matrices with its bytes, and its
    output is theirs by its weight."""
    n_experts, n_ffn, dim = 3, 256, 512
    gate_up_bytes = [stored(rng, dtype, 2 * n_ffn, dim) for _ in range(n_experts)]
    down_bytes = [stored(rng, dtype, dim, n_ffn) for _ in range(n_experts)]
    gate_up = PackedStack(compute, dtype, 2 * n_experts, n_ffn, dim)
    down = PackedStack(compute, dtype, n_experts, dim, n_ffn)
    for e in range(n_experts):
        assert gate_up.pack(2 * e, 0, gate_up_bytes[e][:n_ffn])
        assert gate_up.pack(2 * e + 1, 0, gate_up_bytes[e][n_ffn:])
        assert down.pack(e, 0, down_bytes[e])
    x, router = (rng.standard_normal((n, dim)).astype(np.float32) for n in (n_rows, n_experts))
    routing = routed(compute, x, np.ones(dim, np.float32), router, 1, renormalised=False)
    source, _ = quantized(compute, x)
    activated, out = Q80Rows(n_rows, n_ffn), np.full((n_rows, dim), np.nan, np.float32)
    compute.experts_gated(activated, gate_up, source, routing, n_rows, "gelu")
    compute.experts_down(out, down, activated, routing, n_rows)
    slot_row, _ = experts_oracle.by_slot(routing.ids)
    for e in range(n_experts):
        scratch, product = np.empty((n_rows, 2 * n_ffn), np.float32), np.empty((n_rows, dim), np.float32)
        dense = Q80Rows(n_rows, n_ffn)
        matrix = packed(compute, dtype, gate_up_bytes[e], dim)
        compute.gated_matmul(dense, matrix, source, scratch, n_rows, "gelu")
        compute.matmul(product, packed(compute, dtype, down_bytes[e], n_ffn), dense, n_rows)
        slots = np.flatnonzero(routing.ids[slot_row, 0] == e)
        rows = slot_row[slots]
        np.testing.assert_array_equal(activated.quants[slots], dense.quants[rows])
        np.testing.assert_array_equal(activated.scales[slots], dense.scales[rows])
        np.testing.assert_array_equal(out[rows], routing.weights[rows] * product[rows])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda c, o: c.route(o.routing, o.x, o.norm, 1e-6, o.router[:3], 4, True), ValueError, "weights"),
        (lambda c, o: c.route(o.routing, o.x, o.norm, 1e-6, o.router, 5, True), ValueError, "n_rows"),
        (lambda c, o: c.route(o.x, o.x, o.norm, 1e-6, o.router, 4, True), TypeError, "routing"),
        (lambda c, o: o.route(c, choice_bias=o.norm[:5]), ValueError, "choice_bias"),
        (lambda c, o: o.route(c, sigmoid=True, choice_bias=o.norm[:4]), ValueError, "choice_bias"),
        (lambda c, o: o.route(c, n_groups=0), ValueError, "n_groups"),
        (lambda c, o: o.route(c, n_groups=2), ValueError, "n_groups"),
        (lambda c, o: o.route(c, n_groups=5, top_groups=6), ValueError, "top_groups"),
        (lambda c, o: o.route(c, n_groups=5, top_groups=1), ValueError, "top_groups"),
        (lambda c, o: o.route(c, group_best=2), ValueError, "group_best"),
        (lambda c, o: c.experts_gated(o.activated, o.down, o.x, o.routing, 4, "silu"), ValueError, "stack"),
        (
            lambda c, o: c.experts_gated(o.activated, o.gate_up, o.x, o.routing, 3, "silu"),
            ValueError,
            "routing",
        ),
        (lambda c, o: c.experts_gated(o.x, o.gate_up, o.x, o.routing, 4, "silu"), ValueError, "n_rows"),
        (lambda c, o: c.experts_gated(o.activated, o.x, o.x, o.routing, 4, "silu"), TypeError, "stack"),
        (
            lambda c, o: c.experts_gated(o.activated, o.gate_up, Q80Rows(4, 64), o.routing, 4, "silu"),
            TypeError,
            "x",
        ),
        (lambda c, o: c.experts_down(o.x, o.gate_up, o.activated, o.routing, 4), ValueError, "stack"),
        (lambda c, o: c.experts_down(o.x, o.down, o.x, o.routing, 4), ValueError, "n_rows"),
        (lambda c, o: c.experts_down(o.activated, o.down, o.activated, o.routing, 4), ValueError, "out"),
    ],
)
def test_wrong_arguments_are_named(call, error: type[Exception], words: str) -> None:  # type: ignore[no-untyped-def]
    compute = Compute(1)

    class Arguments:
        x, norm = np.ones((4, 64), np.float32), np.ones(64, np.float32)
        router = np.ones((5, 64), np.float32)
        routing = RoutedRows(4, 5, 2)
        activated = np.ones((8, 32), np.float32)
        gate_up = PackedStack(compute, ElementType.F32, 10, 32, 64)
        down = PackedStack(compute, ElementType.F32, 5, 64, 32)

        @classmethod
        def route(cls, compute: Compute, **rule: object) -> None:
            compute.route(cls.routing, cls.x, cls.norm, 1e-6, cls.router, 4, True, **rule)

    compute.route(Arguments.routing, Arguments.x, Arguments.norm, 1e-6, Arguments.router, 4, True)
    with pytest.raises(error, match=words):
        call(compute, Arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((-1, 4, 2), "max_rows"), ((4, 0, 1), "n_experts"), ((4, 4, 5), "top_k"), ((4, 4, 0), "top_k")],
)
def test_routes_have_experts(arguments: tuple[int, int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RoutedRows(*arguments)


def test_any_run_of_rows_of_a_matrix_can_be_packed(rng: np.random.Generator) -> None:
    compute = Compute(1)
    for dtype in BLOCKED + PLAIN:
        data = oracle.encode(dtype, rng.standard_normal((45, 96)).astype(np.float32))
        stack = PackedStack(compute, dtype, 3, 45, 96)
        for begin, end in [(40, 45), (0, 3), (3, 40)]:
            assert stack.pack(1, begin, data[begin:end])
        np.testing.assert_array_equal(stack.unpack(1, 0, 45), data)
        for other in (0, 2):
            assert not stack.unpack(other, 0, 45).any()
        with pytest.raises(ValueError, match="index"):
            stack.pack(3, 0, data)
