"""Both ways to add partial sums up give what the oracle gives, the same bits on every rank, for the bytes they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.fabric import ExchangeTimes, Fabric, local_fabrics
from dllama.fabric.base import Buffer, WritableBuffer
from dllama.fabric.local import LocalFabric
from dllama.kernels import Cpu, Device, Reference, oracle
from dllama.model import Trace
from dllama.model.all_reduce import Algorithm, ReducePlan, plan_reduce, wire_row_bytes
from dllama.model.partial_sums import PartialSums

TIMEOUT_S = 20.0
Q80, F32 = ElementType.Q80, ElementType.F32
Float32 = NDArray[np.float32]

DIRECT = ReducePlan()
ROUNDED = ReducePlan(rounds=True)
SCATTERED = ReducePlan(scatter_bytes=0)
IN_HALVES = ReducePlan(rounds=True, overlap_bytes=0)
SCATTERED_IN_HALVES = ReducePlan(scatter_bytes=0, overlap_bytes=0)
SIZES = [(1, 1), (1, 32), (1, 4096), (3, 100), (33, 64), (48, 40), (70, 96)]


def partials(n_ranks: int, n_rows: int, dim: int) -> Float32:
    random = np.random.default_rng((n_ranks, n_rows, dim))
    return random.standard_normal((n_ranks, n_rows, dim)).astype(np.float32)


def all_reduce(
    fabrics: Sequence[Fabric],
    parts: Float32,
    wire: ElementType,
    plan: ReducePlan,
    n_rounds: int = 1,
    new_device: Callable[[int], Device] = Cpu,
) -> Float32:
    """The residual [n_ranks, T, D] of every rank, which was ones, after `n_rounds` sums of the same parts. `new_device`
    makes the device of a rank, of its number from 1 on."""

    def one(fabric: Fabric) -> Float32:
        x = np.ones((len(parts[0]) + 7, parts.shape[2]), np.float32)
        partial = np.full_like(x, np.nan)
        device = new_device(fabric.rank + 1)
        bound = device.bind(x), device.bind(partial)
        sums = PartialSums(device, fabric, *bound, wire, plan, TIMEOUT_S, Trace())
        n_rows = parts.shape[1]
        for _ in range(n_rounds):
            runs = sums.runs(n_rows)
            for run in runs:
                partial[: run.n_rows] = parts[fabric.rank, run.rows]
                run.encode()
                run.send()
                partial[:] = np.nan  # it may be changed at once
            for run in runs:
                run.wait()
                run.add()
        assert (x[n_rows:] == 1).all(), "rows beyond the step have changed"
        return x[:n_rows]

    with ThreadPoolExecutor(len(fabrics)) as pool:
        return np.stack(list(pool.map(one, fabrics)))


def wanted_sum(parts: Float32, wire: ElementType, rounds: bool) -> Float32:
    n_ranks, n_rows, dim = parts.shape
    if wire is F32:
        return oracle.sum_in_order(parts)
    padded = np.zeros((n_ranks * n_rows, -(-dim // 32) * 32), np.float32)
    padded[:, :dim] = parts.reshape(-1, dim)
    travelled = oracle.decode(Q80, oracle.encode(Q80, padded), padded.shape[1])
    total = oracle.sum_in_order(travelled.reshape(n_ranks, n_rows, -1))
    if rounds:
        total = oracle.decode(Q80, oracle.encode(Q80, total), total.shape[1])
    return total[:, :dim]


@pytest.mark.parametrize(
    ("plan", "rounds"),
    [(DIRECT, False), (ROUNDED, True), (SCATTERED, True), (IN_HALVES, True), (SCATTERED_IN_HALVES, True)],
    ids=["direct", "rounded", "scattered", "in halves", "scattered in halves"],
)
@pytest.mark.parametrize("wire", [Q80, F32], ids=str)
@pytest.mark.parametrize("n_ranks", [2, 3, 5, 8])
def test_sums(n_ranks: int, wire: ElementType, plan: ReducePlan, rounds: bool) -> None:
    fabrics = local_fabrics(n_ranks)
    for n_rows, dim in SIZES:
        parts = partials(n_ranks, n_rows, dim)
        wanted = 1 + wanted_sum(parts, wire, rounds)
        for rank, got in enumerate(all_reduce(fabrics, parts, wire, plan)):
            np.testing.assert_array_equal(got, wanted, err_msg=f"rank {rank}, {n_rows} x {dim}")


@pytest.mark.parametrize("plan", [DIRECT, SCATTERED, IN_HALVES], ids=["direct", "scattered", "in halves"])
@pytest.mark.parametrize("wire", [Q80, F32], ids=str)
def test_ranks_with_other_devices_have_the_same_bits(wire: ElementType, plan: ReducePlan) -> None:
    parts = partials(3, 40, 100)
    of_cpus = all_reduce(local_fabrics(3), parts, wire, plan)
    mixed = all_reduce(
        local_fabrics(3), parts, wire, plan, new_device=lambda n: Cpu(1) if n == 2 else Reference()
    )
    np.testing.assert_array_equal(mixed, of_cpus)


def test_one_rank_adds_its_products_itself() -> None:
    device, x = Cpu(1), np.ones((40, 100), np.float32)
    bound = device.bind(x), device.buffer(0, 100)
    for plan in (DIRECT, SCATTERED_IN_HALVES):
        sums = PartialSums(device, local_fabrics(1)[0], *bound, Q80, plan, TIMEOUT_S, Trace())
        (run,) = sums.runs(len(x))
        assert run.adds
        assert run.out is run.x
        run.encode()
        run.send()
        run.wait()
        run.add()
        assert (x == 1).all()


def test_again_and_again_over_the_same_buffers() -> None:
    fabrics, parts = local_fabrics(3), partials(3, 40, 64)
    total = wanted_sum(parts, Q80, True)
    wanted = np.ones_like(total)
    for _ in range(4):
        wanted += total
    for plan in (ROUNDED, SCATTERED, IN_HALVES, SCATTERED_IN_HALVES):
        for got in all_reduce(fabrics, parts, Q80, plan, n_rounds=4):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("plan", "n_messages"),
    [(DIRECT, 1), (ROUNDED, 1), (SCATTERED, 2), (IN_HALVES, 2 * 1), (SCATTERED_IN_HALVES, 2 * 2)],
    ids=["direct", "rounded", "scattered", "in halves", "scattered in halves"],
)
@pytest.mark.parametrize("n_ranks", [2, 4, 8])
def test_messages(n_ranks: int, plan: ReducePlan, n_messages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank sends every other one the same few, however large they are; as many for either half."""
    sent: list[tuple[int, int]] = []
    exchange = LocalFabric.exchange

    def counted(
        fabric: LocalFabric,
        sends: Sequence[tuple[int, Buffer]],
        receives: Sequence[tuple[int, WritableBuffer]],
        timeout_s: float | None,
    ) -> None:
        sent.extend((fabric.rank, peer) for peer, _ in sends)
        exchange(fabric, sends, receives, timeout_s)

    monkeypatch.setattr(LocalFabric, "exchange", counted)
    all_reduce(local_fabrics(n_ranks), partials(n_ranks, 512, 256), Q80, plan)
    pairs = [(a, b) for a in range(n_ranks) for b in range(n_ranks) if a != b]
    assert Counter(sent) == dict.fromkeys(pairs, n_messages)


@pytest.mark.parametrize("wire", [Q80, F32], ids=str)
@pytest.mark.parametrize("n_ranks", [2, 3, 8])
def test_bytes(n_ranks: int, wire: ElementType) -> None:
    """(n - 1) parts direct, 2 (n - 1) / n of one scattered, up to a block for each piece."""
    n_rows, dim = 5, 256
    part = n_rows * wire_row_bytes(dim, wire)
    for plan, wanted in ((DIRECT, (n_ranks - 1) * part), (SCATTERED, 2 * (n_ranks - 1) * part / n_ranks)):
        fabrics = local_fabrics(n_ranks)
        all_reduce(fabrics, partials(n_ranks, n_rows, dim), wire, plan)
        slack = 0 if plan is DIRECT else 2 * (n_ranks - 1) * 34
        for fabric in fabrics:
            assert abs(sum(fabric.sent_bytes) - wanted) <= slack
            assert abs(sum(fabric.received_bytes) - wanted) <= slack


def test_a_lost_rank_is_named_by_both_kinds_of_runs() -> None:
    from dllama.errors import PeerLostError

    for plan in (ROUNDED, IN_HALVES):
        fabrics = local_fabrics(2)
        fabrics[1].close()
        with pytest.raises(PeerLostError, match="thread 1"):
            all_reduce(fabrics[:1], partials(1, 40, 64), Q80, plan)


LAN = ExchangeTimes(latency_s=100e-6, byte_s=8e-9)


def seconds(n_ranks: int, times: ExchangeTimes, n_bytes: int, scatters: bool) -> float:
    n_exchanges, n_sent = (2, n_bytes / n_ranks) if scatters else (1, n_bytes)
    return n_exchanges * (times.latency_s + n_sent * times.byte_s)


@pytest.mark.parametrize("latency_s", [5e-6, 100e-6, 3e-3])
@pytest.mark.parametrize("byte_s", [1e-11, 1e-9, 1e-7])
@pytest.mark.parametrize("n_ranks", [2, 3, 4, 8, 32])
def test_the_quicker_one_is_chosen(n_ranks: int, byte_s: float, latency_s: float) -> None:
    times = ExchangeTimes(latency_s=latency_s, byte_s=byte_s)
    plan = plan_reduce(n_ranks, times)
    for n_bytes in (34, 4352, 10_000, 100_000, 10_000_000):
        scatters = plan.scatter_bytes is not None and n_bytes >= plan.scatter_bytes
        chosen, other = (seconds(n_ranks, times, n_bytes, way) for way in (scatters, not scatters))
        assert chosen <= other * (1 + 1e-9), n_bytes


def test_a_session_that_may_use_both_ways_rounds_in_both() -> None:
    assert plan_reduce(3, LAN).rounds
    assert not plan_reduce(2, LAN).rounds
    assert not plan_reduce(3, LAN, Algorithm.DIRECT).rounds
    assert plan_reduce(1, LAN) == ReducePlan()


def test_forced_ways() -> None:
    for n_ranks in (2, 3, 8):
        assert plan_reduce(n_ranks, LAN, Algorithm.DIRECT).scatter_bytes is None
        assert plan_reduce(n_ranks, LAN, Algorithm.SCATTERED).scatter_bytes == 0


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("n_ranks", [2, 4, 8])
def test_steps_are_halved_where_their_sums_take_a_millisecond(n_ranks: int, algorithm: Algorithm) -> None:
    plan = plan_reduce(n_ranks, LAN, algorithm)
    assert plan.overlap_bytes is not None
    for n_bytes in (plan.overlap_bytes, plan.overlap_bytes + 34):
        scatters = plan.scatter_bytes is not None and n_bytes >= plan.scatter_bytes
        moving_s = LAN.byte_s * n_bytes * (2 / n_ranks if scatters else 1)
        assert moving_s == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("n_ranks", [2, 8])
def test_large_steps_are_halved_over_any_link(n_ranks: int) -> None:
    quick = ExchangeTimes(latency_s=1e-5, byte_s=1e-11)
    assert (plan_reduce(n_ranks, quick).overlap_bytes or 0) > 1_000_000
    assert plan_reduce(n_ranks, quick, large_bytes=500_000).overlap_bytes == 500_000
    slow = plan_reduce(n_ranks, LAN)
    assert plan_reduce(n_ranks, LAN, large_bytes=100 << 20) == slow
    assert plan_reduce(1, LAN, large_bytes=1).overlap_bytes is None
