"""What every device promises of gated delta nets, against the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.kernels import Cpu, Device, Reference, delta_oracle, oracle, supported_isas
from kernels.checks import EPS, Float32, assert_within

DEVICES: dict[str, Callable[[], Device]] = {
    "reference": Reference,
    **{isa: (lambda isa=isa: Cpu(2, isa)) for isa in supported_isas()},  # type: ignore[misc]
}
N_PAGES, PAGE_SIZE = 12, 64
Runs = Sequence[tuple[int, int]]
"""Of each sequence the first position and the number of rows."""


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return DEVICES[request.param]()


def normal(*shape: int, seed: int = 1) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


TABLE = np.array([[3, 5, 7, 2], [1, 4, 0, 6], [8, 11, 9, 10]], np.int32)
"""Pages of three sequences."""


def places(*runs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions and sequence of runs."""
    positions = [np.arange(first, first + n) for first, n in runs]
    sequence = [np.full(n, index) for index, (_, n) in enumerate(runs)]
    return np.concatenate(positions).astype(np.int32), np.concatenate(sequence).astype(np.int32)


@dataclasses.dataclass
class Net:
    """`device` computes rows of sequences; states are what was left in them."""

    device: Device
    n_heads: int = 5
    head_offset: int = 1
    group: int = 2
    key_dim: int = 12
    value_dim: int = 37
    width: int = 4

    def __post_init__(self) -> None:
        self.n_key_heads = (self.n_heads - 1 + self.head_offset) // self.group + 1
        self.n_channels = 2 * self.n_key_heads * self.key_dim + self.n_heads * self.value_dim
        self.weights = normal(self.width, self.n_channels, seed=2)
        self.log_rate, self.dt_bias = normal(self.n_heads, seed=3), normal(self.n_heads, seed=4)
        self.conv_state = normal(N_PAGES, self.width - 1, self.n_channels, seed=5)
        self.state = normal(N_PAGES, self.n_heads, self.key_dim, self.value_dim, seed=6)

    def rows(self, n: int, seed: int = 7) -> Float32:
        """Channels, then something else, then beta and alpha."""
        return normal(n, self.n_channels + 3 + 2 * self.n_heads, seed=seed)

    def convolved(self, x: Float32, runs: Runs, table: np.ndarray = TABLE) -> Float32:
        out, (positions, sequence) = np.zeros((len(x), self.n_channels), np.float32), places(*runs)
        bind = self.device.bind
        self.device.causal_conv(
            bind(out), bind(x), bind(self.weights), bind(self.conv_state), bind(positions), bind(sequence),
            bind(table), PAGE_SIZE, len(x),
        )  # fmt: skip
        return out

    def recurred(self, qkv: Float32, gates: Float32, runs: Runs, table: np.ndarray = TABLE) -> Float32:
        out = np.zeros((len(qkv), self.n_heads * self.value_dim), np.float32)
        positions, sequence = places(*runs)
        bind = self.device.bind
        self.device.delta_rule(
            bind(out), bind(qkv), bind(gates), self.n_channels + 3, bind(self.log_rate), bind(self.dt_bias),
            bind(self.state), bind(positions), bind(sequence), bind(table), PAGE_SIZE,
            self.head_offset, self.group, len(qkv),
        )  # fmt: skip
        return out

    def split(self, qkv: Float32, gates: Float32) -> tuple[np.ndarray, ...]:
        """Operands of the oracle, of rows of one sequence."""
        n, of = len(qkv), (np.arange(self.n_heads) + self.head_offset) // self.group
        n_keys = self.n_key_heads * self.key_dim
        q, k, v = np.split(qkv, [n_keys, 2 * n_keys], axis=1)
        beta, alpha = np.split(gates[:, self.n_channels + 3 :], 2, axis=1)
        return (
            q.reshape(n, -1, self.key_dim)[:, of],
            k.reshape(n, -1, self.key_dim)[:, of],
            v.reshape(n, self.n_heads, -1),
            delta_oracle.decay_of(alpha, self.log_rate, self.dt_bias),
            delta_oracle.sigmoid(beta),
        )


@pytest.mark.parametrize("first", [0, 1, 70])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 9])
def test_conv_looks_back_into_its_state(device: Device, first: int, n_rows: int) -> None:
    net, page = Net(device), TABLE[0, first // PAGE_SIZE]
    x, before = net.rows(n_rows), net.conv_state.copy()
    state = before[page] if first else np.zeros_like(before[page])  # nothing before the text begins
    out = net.convolved(x, [(first, n_rows)])
    wanted, behind = delta_oracle.causal_conv(x[:, : net.n_channels], net.weights, state)
    assert_within(out, wanted, 40 * EPS * (1 + np.abs(wanted)))
    np.testing.assert_array_equal(net.conv_state[page], behind.astype(np.float32))
    np.testing.assert_array_equal(np.delete(net.conv_state, page, 0), np.delete(before, page, 0))


@pytest.mark.parametrize("value_dim", [1, 16, 32, 37, 128])
@pytest.mark.parametrize("n_rows", [1, 2, 50])
def test_delta_rule_equals_the_oracle(device: Device, n_rows: int, value_dim: int) -> None:
    net, page = Net(device, value_dim=value_dim), TABLE[0, 0]
    gates, before = net.rows(n_rows), net.state.copy()
    qkv = net.rows(n_rows, seed=8)[:, : net.n_channels].copy()
    out = net.recurred(qkv, gates, [(5, n_rows)])
    operands = net.split(qkv, gates)
    for rule in (delta_oracle.delta_rule, delta_oracle.delta_rule_of_chunk):
        wanted, behind = rule(*operands, before[page])
        # A state loses a rounding for each row, and what is lost decays with it.
        size = np.abs(before[page]).max() + np.abs(operands[2]).max()
        assert_within(out.reshape(wanted.shape), wanted, 200 * EPS * size)
        assert_within(net.state[page], behind, 200 * EPS * size)
    np.testing.assert_array_equal(np.delete(net.state, page, 0), np.delete(before, page, 0))


@pytest.mark.parametrize("parts", [[150], [1] * 150, [63, 1, 64, 22], [7, 100, 43], [64, 1, 1, 84]], ids=len)
def test_rows_in_parts_have_the_bits_of_all_at_once(device: Device, parts: Sequence[int]) -> None:
    whole, other = Net(device), Net(device)
    x, n_rows = whole.rows(150), 150
    qkv = whole.convolved(x, [(0, n_rows)])
    wanted = whole.recurred(qkv, x, [(0, n_rows)])
    first = 0
    for n in parts:
        rows = slice(first, first + n)
        some = other.convolved(x[rows].copy(), [(first, n)])
        np.testing.assert_array_equal(some, qkv[rows])
        out = other.recurred(some, x[rows].copy(), [(first, n)])
        np.testing.assert_array_equal(out, wanted[rows])
        first += n
    np.testing.assert_array_equal(other.state, whole.state)
    np.testing.assert_array_equal(other.conv_state, whole.conv_state)


def test_a_page_has_the_state_at_its_end(device: Device) -> None:
    """So others go on from there, however the text went on."""
    net, other = Net(device), Net(device)
    x = net.rows(150)
    qkv = net.convolved(x, [(0, 150)])
    net.recurred(qkv, x, [(0, 150)])
    other.recurred(other.convolved(x[:128].copy(), [(0, 128)]), x[:128].copy(), [(0, 128)])
    for page in TABLE[0, :2]:
        np.testing.assert_array_equal(net.state[page], other.state[page])
        np.testing.assert_array_equal(net.conv_state[page], other.conv_state[page])
    table = np.array([[-1, TABLE[0, 1], 9]], np.int32)  # what lies further back is not looked at
    again = net.convolved(x[128:].copy(), [(128, 22)], table)
    np.testing.assert_array_equal(again, qkv[128:])
    net.recurred(again, x[128:].copy(), [(128, 22)], table)
    np.testing.assert_array_equal(net.state[9], net.state[TABLE[0, 2]])


def test_sequences_side_by_side_have_the_bits_of_each_alone(device: Device) -> None:
    together, runs = Net(device), [(0, 3), (9, 1), (60, 70)]
    x = together.rows(74)
    qkv = together.convolved(x, runs)
    out = together.recurred(qkv, x, runs)
    alone, first = Net(device), 0
    for run, table in zip(runs, TABLE, strict=True):
        rows = slice(first, first + run[1])
        of_run = alone.convolved(x[rows].copy(), [run], table[None].copy())
        np.testing.assert_array_equal(of_run, qkv[rows])
        recurred = alone.recurred(of_run, x[rows].copy(), [run], table[None].copy())
        np.testing.assert_array_equal(recurred, out[rows])
        first += run[1]
    np.testing.assert_array_equal(alone.state, together.state)
    np.testing.assert_array_equal(alone.conv_state, together.conv_state)


@pytest.mark.parametrize("quantised", [False, True])
def test_gates_of_rows(device: Device, quantised: bool) -> None:
    n_rows, width, n_heads = 9, 16, 6
    x, gate, weight = normal(n_rows, 96), normal(n_rows, 103, seed=2), normal(width, seed=3)
    by = gate[:, 5:101]
    heads = oracle.rms_norm(x.reshape(n_rows, n_heads, width), weight, 1e-5).reshape(x.shape)
    for wanted, call in (
        (heads * delta_oracle.silu(by), lambda out: device.gated_norm(
            out, device.bind(x.copy()), device.bind(weight), 1e-5, device.bind(gate), 5, n_rows)),
        (x * delta_oracle.sigmoid(gate[:, :1]), lambda out: device.sigmoid_scale(
            out, device.bind(x), device.bind(gate[:, :1].copy()), n_rows)),
        (x * delta_oracle.sigmoid(by), lambda out: device.sigmoid_mul(
            out, device.bind(x), device.bind(gate), 5, n_rows)),
    ):  # fmt: skip
        floats = device.buffer(n_rows, 96)
        call(floats)
        got = device.view(floats).array
        assert_within(got, wanted, 40 * EPS * (1 + np.abs(wanted)))
        if quantised:
            rows, again = device.quantised_rows(n_rows, 96), device.quantised_rows(n_rows, 96)
            call(rows)
            device.quantize_rows(again, floats, n_rows)
            identity, outs = device.matrix(ElementType.Q40, 96, 96), []
            identity.pack(0, oracle.encode(ElementType.Q40, np.eye(96, dtype=np.float32)))
            for each in (rows, again):
                out = device.buffer(n_rows, 96)
                device.matmul(out, identity, each, n_rows)
                outs.append(device.view(out).array)
            np.testing.assert_array_equal(*outs)


def test_wrong_operands_are_told(device: Device) -> None:
    net = Net(device)
    x = net.rows(4)
    qkv = x[:, : net.n_channels].copy()
    for call in (
        lambda: net.convolved(x, [(0, 4)], TABLE + N_PAGES),
        lambda: net.convolved(x, [(0, 4)], TABLE - N_PAGES),
        lambda: net.convolved(x, [(0, 2), (0, 2)], TABLE[:1].copy()),
        lambda: net.convolved(x, [(-1, 4)]),
        lambda: net.convolved(x, [(PAGE_SIZE * TABLE.shape[1] - 1, 4)]),
        lambda: net.recurred(qkv, x, [(0, 4)], TABLE + N_PAGES),
        lambda: net.recurred(x, x, [(0, 4)]),
        lambda: net.recurred(qkv, qkv, [(0, 4)]),
        lambda: device.sigmoid_mul(device.buffer(4, 8), device.buffer(4, 8), device.buffer(4, 9), 2, 4),
        lambda: device.gated_norm(
            device.buffer(4, 8), device.buffer(4, 8), device.buffer(3), 1e-6, device.buffer(4, 9), 0, 4
        ),
    ):
        with pytest.raises(ValueError, match=r".+"):
            call()
