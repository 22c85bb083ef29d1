"""What the links between the nodes give: every pair, and the collectives at the sizes of a model's shape."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import secrets
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from dllama.dtypes import ElementType
from dllama.errors import UsageError
from dllama.fabric import Fabric, Job, receive_frame, send_frame
from dllama.model import ModelConfig
from dllama.model.all_reduce import wire_row_bytes
from dllama.node import Address
from dllama.node.crew import Crew, greet_crew
from dllama.node.links import link_faults
from dllama.node.messages import MAX_CONTROL_BYTES, Kind
from dllama.node.probe import TIMEOUT_S, LinkFaults, Measure, Measured, Pattern, ProbeOrders, order_measure

_LATENCY_ROUNDS = 200
_BULK_BYTES = 4 << 20
_PROBE_BYTES, _PROBE_S = 1 << 20, 0.03
"""Where so much takes longer, on links below 280 Mbit/s, it is measurement enough."""
_BULK_ROUNDS = 3
_DECODE_ROUNDS = 100
_PREFILL_ROUNDS = 3
_PREFILL_ROWS = 512
_CANDIDATE_BYTES = 28
_SLOW = 0.7
"""A link below that part of what the others give is called slow: TCP over equal links differs by less."""
_LATE = 2.0
_NOTICEABLE_S = 50e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSpeed:
    """Between two ranks: half a round trip of one byte, and Mbit/s of payload each way."""

    first: int
    second: int
    latency_s: float
    there_mbit: float
    back_mbit: float

    @property
    def mbit(self) -> float:
        return min(self.there_mbit, self.back_mbit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectiveTime:
    name: str
    n_bytes: int
    median_s: float
    least_s: float
    most_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FabricReport:
    """`slow` names the link that holds the others up; None where all are alike. `faults` has lines for each rank.
    The network's part of one decoded token: as measured collectives add up, and as the model of docs/performance.md
    has it from latency and bandwidth."""

    names: tuple[str, ...]
    pairs: tuple[PairSpeed, ...]
    collectives: tuple[CollectiveTime, ...]
    slow: str | None
    faults: tuple[tuple[str, ...], ...]
    measured_token_s: dict[str, float]
    modelled_token_s: dict[str, float]


def measure_fabric(
    workers: Sequence[Address],
    job: Job | None,
    config: ModelConfig,
    peer_timeout_s: float,
    on_progress: Callable[[int, int], None],
) -> FabricReport:
    """Raises PeerError, and UsageError where there is nobody to talk to."""
    session = secrets.token_hex(16)
    if not workers and (job is None or job.n_ranks == 1):
        raise UsageError(
            "there is no link to measure: name workers, or start several processes with mpiexec",
            settings=("workers",),
        )
    with contextlib.closing(greet_crew(workers, job, session)) as crew:
        fabric = crew.join(
            Kind.PROBE,
            lambda rank: ProbeOrders(session, rank, crew.addresses, peer_timeout_s).encode(),
            TIMEOUT_S,
            peer_timeout_s,
        )
        with contextlib.closing(fabric):
            report = _measure(fabric, crew, config, on_progress)
            send_frame(fabric, range(1, fabric.n_ranks), Kind.END, timeout_s=TIMEOUT_S)
    return report


def _measure(
    fabric: Fabric, crew: Crew, config: ModelConfig, on_progress: Callable[[int, int], None]
) -> FabricReport:
    n_ranks = fabric.n_ranks
    couples = list(itertools.combinations(range(n_ranks), 2))
    wanted = _collectives(config)
    n_all, done = len(couples) + len(wanted), 0
    pairs = []
    for first, second in couples:
        pairs.append(_pair(fabric, first, second))
        on_progress(done := done + 1, n_all)
    collectives = []
    for name, measure in wanted:
        times = order_measure(fabric, measure)
        collectives.append(CollectiveTime(name=name, n_bytes=measure.n_bytes, **vars(times)))
        on_progress(done := done + 1, n_all)
    names = ("root", *crew.names[1:])
    return FabricReport(
        names=names,
        pairs=tuple(pairs),
        collectives=tuple(collectives),
        slow=slow_link(names, pairs),
        faults=tuple(map(tuple, _faults(fabric, crew))),
        measured_token_s=_measured_token_s(config, collectives),
        modelled_token_s=modelled_token_s(config, n_ranks, pairs),
    )


def _pair(fabric: Fabric, first: int, second: int) -> PairSpeed:
    def ask(n_bytes: int, answer_bytes: int, n_rounds: int) -> Measured:
        measure = Measure(Pattern.PAIR, n_bytes, n_rounds, first, second, answer_bytes)
        return order_measure(fabric, measure)

    round_trip_s = ask(1, 1, _LATENCY_ROUNDS).median_s
    n_bytes = _BULK_BYTES if ask(_PROBE_BYTES, 1, 1).least_s < _PROBE_S else _PROBE_BYTES
    there_s = bulk_s(ask(n_bytes, 1, _BULK_ROUNDS).least_s, round_trip_s)
    back_s = bulk_s(ask(1, n_bytes, _BULK_ROUNDS).least_s, round_trip_s)
    return PairSpeed(
        first=first,
        second=second,
        latency_s=round_trip_s / 2,
        there_mbit=n_bytes * 8e-6 / there_s,
        back_mbit=n_bytes * 8e-6 / back_s,
    )


def bulk_s(measured_s: float, round_trip_s: float) -> float:
    """What the bytes themselves took: `measured_s` without the way of one byte back, but never less than half of it, as
    a busy computer may have measured that way when it was slow."""
    return max(measured_s - round_trip_s / 2, measured_s / 2)


def _collectives(config: ModelConfig) -> list[tuple[str, Measure]]:
    row = wire_row_bytes(config.dim, ElementType.Q80)
    rows = _PREFILL_ROWS * row
    return [
        ("all-reduce of 1 row, direct", Measure(Pattern.EXCHANGE_ALL, row, _DECODE_ROUNDS)),
        ("all-reduce of 1 row, scattered", Measure(Pattern.SCATTERED, row, _DECODE_ROUNDS)),
        (
            f"all-reduce of {_PREFILL_ROWS} rows, direct",
            Measure(Pattern.EXCHANGE_ALL, rows, _PREFILL_ROUNDS),
        ),
        (
            f"all-reduce of {_PREFILL_ROWS} rows, scattered",
            Measure(Pattern.SCATTERED, rows, _PREFILL_ROUNDS),
        ),
        ("inputs of 1 row to all", Measure(Pattern.BROADCAST, 4 * config.dim, _DECODE_ROUNDS)),
        ("candidates of 1 row to the root", Measure(Pattern.GATHER, _CANDIDATE_BYTES, _DECODE_ROUNDS)),
    ]


def _measured_token_s(config: ModelConfig, collectives: Sequence[CollectiveTime]) -> dict[str, float]:
    direct, scattered, _, _, inputs, candidates = (time.median_s for time in collectives)
    # Broadcast and gather are measured as round trips; a token pays for one way of each.
    rest = (inputs + candidates) / 2
    return {
        name: 2 * config.n_layers * one + rest for name, one in (("direct", direct), ("scattered", scattered))
    }


def modelled_token_s(config: ModelConfig, n_ranks: int, pairs: Sequence[PairSpeed]) -> dict[str, float]:
    """Latencies and bytes of one decoded token on the worst link: (2 L + 2) waits, twice as many messages in a row
    where sums are scattered, and the bytes that every rank sends over its link."""
    latency_s = max(pair.latency_s for pair in pairs)
    bytes_per_s = min(pair.mbit for pair in pairs) * 1e6 / 8
    row = wire_row_bytes(config.dim, ElementType.Q80)
    n_layers = config.n_layers
    return {
        "direct": (2 * n_layers + 2) * latency_s + 2 * n_layers * (n_ranks - 1) * row / bytes_per_s,
        "scattered": (4 * n_layers + 2) * latency_s
        + 4 * n_layers * row * (n_ranks - 1) / n_ranks / bytes_per_s,
    }


def slow_link(names: Sequence[str], pairs: Sequence[PairSpeed]) -> str | None:
    """The node whose link is far below those of the others, or else the pair; None where all are alike.

    A pair is as fast as the slower of its two links, so a node's own link shows in the fastest pair that it is in.
    """
    if len(names) < 3:
        return None
    speeds = [max(p.mbit for p in pairs if rank in (p.first, p.second)) for rank in range(len(names))]
    latencies = [min(p.latency_s for p in pairs if rank in (p.first, p.second)) for rank in range(len(names))]
    slowest = min(range(len(names)), key=speeds.__getitem__)
    usual = statistics.median(speeds[:slowest] + speeds[slowest + 1 :])
    if speeds[slowest] < _SLOW * usual:
        return f"the link of {names[slowest]}: {speeds[slowest]:.0f} Mbit/s, the others {usual:.0f}"
    latest = max(range(len(names)), key=latencies.__getitem__)
    usual = statistics.median(latencies[:latest] + latencies[latest + 1 :])
    if latencies[latest] > max(_LATE * usual, usual + _NOTICEABLE_S):
        return (
            f"the link of {names[latest]}: {latencies[latest] * 1e6:.0f} us, the others {usual * 1e6:.0f} us"
        )
    for pair in pairs:
        usual = min(speeds[pair.first], speeds[pair.second])
        if pair.mbit < _SLOW * usual:
            return (
                f"the way between {names[pair.first]} and {names[pair.second]}: {pair.mbit:.0f} Mbit/s, "
                f"elsewhere {usual:.0f}"
            )
    return None


def _faults(fabric: Fabric, crew: Crew) -> list[list[str]]:
    """What each node knows of its own links."""
    send_frame(fabric, range(1, fabric.n_ranks), Kind.LINKS, timeout_s=TIMEOUT_S)
    faults = [link_faults(Path("/sys"), Path("/proc"), crew.addresses)]
    for rank in range(1, fabric.n_ranks):
        _, payload = receive_frame(fabric, rank, MAX_CONTROL_BYTES, TIMEOUT_S)
        faults.append([str(line) for line in LinkFaults.decode(payload, crew.names[rank]).faults])
    return faults
