"""What every device promises of mixtures of experts, against the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.kernels import (
    Buffer,
    Cpu,
    Device,
    MatrixStack,
    Reference,
    Routes,
    experts_oracle,
    oracle,
    router_oracle,
)
from dllama.kernels.router_oracle import Rule
from kernels.checks import EPS, Float32, assert_within

DEVICES: dict[str, Callable[[], Device]] = {"cpu": lambda: Cpu(2), "reference": Reference}
N_EXPERTS, TOP_K, F, D = 6, 2, 37, 51
SOFTMAX = Rule(top_k=TOP_K, renormalised=True)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return DEVICES[request.param]()


def normal(*shape: int, seed: int = 1) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stack_of(device: Device, matrices: Float32) -> MatrixStack:
    stack = device.stack(ElementType.F32, *matrices.shape)
    for index, matrix in enumerate(matrices):
        data = oracle.encode(ElementType.F32, matrix)
        assert stack.pack(index, 0, data[:5])
        assert stack.pack(index, 5, data[5:])
    return stack


@dataclasses.dataclass
class Mixture:
    """Experts in float32, where no device rounds inputs."""

    device: Device

    def __post_init__(self) -> None:
        self.gate_up, self.down = normal(2 * N_EXPERTS, F, D), normal(N_EXPERTS, D, F, seed=2)
        self.router, self.norm = normal(N_EXPERTS, D, seed=3), normal(D, seed=4)
        self.biases = [3 * normal(N_EXPERTS, n, seed=8 + part) for part, n in enumerate((F, F, D))]
        device = self.device
        self.gate_up_stack, self.down_stack = stack_of(device, self.gate_up), stack_of(device, self.down)
        self.operands = device.bind(self.norm), device.bind(self.router)

    def routed(self, x: Float32, rule: Rule = SOFTMAX) -> Routes:
        norm, router = self.operands
        routes = self.device.routes(len(x), N_EXPERTS, TOP_K)
        numbers = {
            name: self.device.bind(value) if isinstance(value, np.ndarray) else value
            for name, value in dataclasses.asdict(rule).items()
            if name != "top_k"
        }
        self.device.route(routes, self.device.bind(x), norm, 1e-6, router, len(x), **numbers)
        return routes

    def run(
        self, x: Float32, out: Float32, add: bool = False, activation: str = "silu", has_biases: bool = False
    ) -> Float32:
        """What the experts' gates and ups are, by slot; `out` gets the sums."""
        gate, up, down = (self.device.bind(bias) if has_biases else None for bias in self.biases)
        routes, activated = self.routed(x), np.zeros((len(x) * TOP_K, F), np.float32)
        rows: Buffer = self.device.bind(activated)
        n_rows = len(x)
        bound = self.device.bind(x)
        self.device.experts_gated(rows, self.gate_up_stack, bound, routes, n_rows, activation, gate, up)
        self.device.experts_down(self.device.bind(out), self.down_stack, rows, routes, n_rows, add, down)
        return activated


@pytest.mark.parametrize("renormalised", [True, False])
@pytest.mark.parametrize(
    "rule",
    [
        SOFTMAX,
        dataclasses.replace(SOFTMAX, n_groups=3, top_groups=2, scale=1.5),
        dataclasses.replace(SOFTMAX, logit_bias=normal(N_EXPERTS, seed=10)),
        dataclasses.replace(SOFTMAX, sigmoid=True, scale=0.5),
        dataclasses.replace(SOFTMAX, sigmoid=True, choice_bias=normal(N_EXPERTS, seed=11)),
        dataclasses.replace(
            SOFTMAX,
            sigmoid=True,
            choice_bias=normal(N_EXPERTS, seed=12),
            n_groups=2,
            top_groups=1,
            group_best=2,
        ),
    ],
    ids=["softmax", "groups", "logit bias", "sigmoid", "bias", "groups and bias"],
)
def test_routes_have_the_same_bits(device: Device, rule: Rule, renormalised: bool) -> None:
    of, x = Mixture(device), 3 * normal(23, D, seed=5)
    rule = dataclasses.replace(rule, renormalised=renormalised)
    routes = of.routed(x, rule)
    wanted = router_oracle.route(x, of.norm, 1e-6, of.router, rule)
    np.testing.assert_array_equal(routes.ids, wanted.ids)
    np.testing.assert_array_equal(routes.weights, wanted.weights)
    assert (routes.max_rows, routes.n_experts, routes.top_k) == (23, N_EXPERTS, TOP_K)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("activation", "has_biases"), [("silu", False), ("gelu", True), ("swiglu_oai", True)]
)
def test_each_row_goes_through_its_experts(
    device: Device, activation: str, has_biases: bool, add: bool
) -> None:
    of, x = Mixture(device), normal(23, D, seed=6)
    before = normal(23, D, seed=7)
    out = before.copy()
    activated = of.run(x, out, add, activation, has_biases)
    routes = of.routed(x)
    row, place = experts_oracle.by_slot(routes.ids)
    gate, up = of.gate_up[::2], of.gate_up[1::2]
    gate_bias, up_bias, down_bias = of.biases if has_biases else (None, None, None)
    biases = None if gate_bias is None or up_bias is None else (gate_bias, up_bias)
    wanted = experts_oracle.experts_gated(gate, up, x, routes.ids, activation, biases)
    expert = routes.ids[row, place]
    sizes = [np.einsum("sfd,sd->sf", np.abs(part[expert]), np.abs(x[row])) for part in (gate, up)]
    sizes = [
        size + 1 + (np.abs(of.biases[part])[expert] if has_biases else 0) for part, size in enumerate(sizes)
    ]
    # Each product rounds twice for each of its terms at the most; activations have a slope of at most 1.2, err by 6 ulp
    # and by 4 for each unit of what they raise e to.
    steps = 2.4 * 2 * (D + 1) + 8 + 4 * np.minimum(sizes[0], 88)
    assert_within(activated, wanted[row, place], steps * EPS * sizes[0] * sizes[1])
    of_rows = np.empty((len(x), TOP_K, F), np.float32)
    of_rows[row, place] = activated
    total = experts_oracle.experts_down(of.down, of_rows, routes.ids, routes.weights, down_bias)
    of_bias = None if down_bias is None else np.abs(down_bias)
    size = experts_oracle.experts_down(np.abs(of.down), np.abs(of_rows), routes.ids, routes.weights, of_bias)
    size += np.abs(before) if add else 0
    assert_within(out, total + before if add else total, (2 * F + 2 * TOP_K + 4) * EPS * size)


def test_a_row_depends_on_itself_only(device: Device) -> None:
    of, x = Mixture(device), normal(9, D, seed=8)
    together = np.zeros((9, D), np.float32)
    of.run(x, together)
    for row in range(9):
        alone = np.zeros((1, D), np.float32)
        of.run(x[row : row + 1].copy(), alone)
        np.testing.assert_array_equal(alone[0], together[row])


def test_a_program_follows_the_router(device: Device) -> None:
    of, x, out = Mixture(device), normal(4, D, seed=9), np.zeros((4, D), np.float32)
    program = device.record(of.run, x, out)
    assert len(program) == 3
    for seed in (10, 11):
        x[:] = normal(4, D, seed=seed)
        program.run()
        wanted = np.zeros((4, D), np.float32)
        of.run(x.copy(), wanted)
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pack_tells_of_what_is_not_finite(device: Device, bad: float) -> None:
    stack = device.stack(ElementType.F32, 2, 3, 8)
    rows = normal(3, 8)
    rows[1, 2] = bad
    assert not stack.pack(1, 0, oracle.encode(ElementType.F32, rows))
    assert stack.pack(0, 0, oracle.encode(ElementType.F32, normal(3, 8)))
    assert (stack.n_matrices, stack.n_out, stack.n_in, stack.dtype) == (2, 3, 8, ElementType.F32)


def test_wrong_operands_are_told(device: Device) -> None:
    of, x, out = Mixture(device), normal(4, D), np.zeros((4, D), np.float32)
    routes, activated = of.routed(x), device.buffer(4 * TOP_K, F)
    rows, to = device.bind(x), device.bind(out)
    norm, router = of.operands
    for call in (
        lambda: device.route(routes, rows, norm, 1e-6, router, 5, True),
        lambda: device.route(routes, rows, norm, 1e-6, device.buffer(N_EXPERTS, D + 1), 4, True),
        lambda: of.routed(x, dataclasses.replace(SOFTMAX, n_groups=4)),
        lambda: of.routed(x, dataclasses.replace(SOFTMAX, n_groups=6, top_groups=1)),
        lambda: of.routed(x, dataclasses.replace(SOFTMAX, group_best=2)),
        lambda: of.routed(x, dataclasses.replace(SOFTMAX, choice_bias=normal(N_EXPERTS))),
        lambda: of.routed(x, dataclasses.replace(SOFTMAX, sigmoid=True, choice_bias=normal(N_EXPERTS + 1))),
        lambda: device.experts_gated(activated, of.down_stack, rows, routes, 4, "silu"),
        lambda: device.experts_gated(activated, of.gate_up_stack, rows, routes, 4, "relu"),
        lambda: device.experts_gated(device.buffer(7, F), of.gate_up_stack, rows, routes, 4, "silu"),
        lambda: device.experts_gated(activated, of.gate_up_stack, rows, routes, 3, "silu"),  # 4 were routed
        lambda: of.routed(x, dataclasses.replace(SOFTMAX, logit_bias=normal(N_EXPERTS + 1))),
        lambda: device.experts_gated(
            activated, of.gate_up_stack, rows, routes, 4, "silu", device.buffer(N_EXPERTS, F)
        ),
        lambda: device.experts_down(
            to, of.down_stack, activated, routes, 4, bias=device.buffer(N_EXPERTS, D + 1)
        ),
        lambda: device.experts_down(to, of.gate_up_stack, activated, routes, 4),
        lambda: device.experts_down(device.buffer(4, D + 1), of.down_stack, activated, routes, 4),
        lambda: device.routes(4, 3, 4),
        lambda: of.down_stack.pack(N_EXPERTS, 0, np.zeros((1, 4 * F), np.uint8)),
    ):
        with pytest.raises(ValueError, match=r".+"):
            call()
    with pytest.raises(TypeError):
        device.experts_down(to, object(), activated, routes, 4)  # type: ignore[arg-type]
