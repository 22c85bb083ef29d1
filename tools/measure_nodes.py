"""N nodes with one thread each beside one node with N threads, on the same cores and in turn.

    python tools/measure_nodes.py [--nodes 2] [--pinned] [--bed RATE] [--rounds 5] [--layers N]

Both models are loaded before and stay so; the one whose turn it is not sleeps. What others do with the computer
changes its speed from minute to minute, so each pair of neighbours in time gives one ratio; the median of them counts.
With --bed the nodes are on a virtual switch with links of that rate (tools/testbed.py; as root), else on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import testbed
from dllama.bench import SHAPES, random_checkpoint, shape_named
from dllama.dtypes import ElementType
from dllama.engine import TokenChunk, ragged_batch
from dllama.kernels import Cpu
from dllama.model import Algorithm, SpanName
from dllama.node import Address, Cluster, ClusterOptions, ClusterTrace, NodeSettings

PHASES = ("prefill", "decode")

_WIRE = "wire of "
"""Before a phase: it is to be traced."""


class Root:
    """A process of this program with `--serve`: a model on one node or several, which computes when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()  # it is loaded

    def measure(self, phase: str) -> dict[str, Any]:
        """See Meter.measure."""
        return self._ask(phase)

    def wire_ms(self, phase: str) -> float:
        """See Meter.wire_ms."""
        milliseconds: float = self._ask(f"{_WIRE}{phase}")
        return milliseconds

    def close(self) -> None:
        self._process.communicate()  # the end of its input is its end

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a measuring process ended early; what it said stands above")
        return json.loads(line)


@contextlib.contextmanager
def root(prefix: list[str], n_threads: int, workers: list[str], args: argparse.Namespace) -> Iterator[Root]:
    """`prefix` is put before the command."""
    flags = [
        f"--shape={args.shape}", f"--prompt={args.prompt}", f"--gen={args.gen}", f"--nthreads={n_threads}",
        f"--all-reduce={args.all_reduce}", *([f"--layers={args.layers}"] if args.layers else []),
    ]  # fmt: skip
    command = [*prefix, sys.executable, __file__, "--serve", *flags, "--workers", *workers]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with contextlib.closing(Root(process)) as opened:
        yield opened


@contextlib.contextmanager
def several_nodes(args: argparse.Namespace) -> Iterator[Root]:
    """`args.nodes` nodes with a thread each."""
    pin = [["taskset", "-c", str(node)] if args.pinned else [] for node in range(args.nodes)]
    with contextlib.ExitStack() as stack:
        if args.bed:
            bed = stack.enter_context(testbed.Bed(args.nodes, args.bed))
            # A namespace is left by a command only: what pins comes after it.
            places = [bed.command(node, *pin[node]) for node in range(args.nodes)]
            hosts = [bed.address(node) for node in range(args.nodes)]
        else:
            places, hosts = pin, ["127.0.0.1"] * args.nodes
        addresses = [stack.enter_context(_worker(places[node], hosts[node])) for node in range(1, args.nodes)]
        yield stack.enter_context(root(places[0], 1, addresses, args))


@contextlib.contextmanager
def _worker(prefix: list[str], host: str) -> Iterator[str]:
    """`dllama worker` with one thread; gives its address."""
    command = [sys.executable, "-m", "dllama", "worker", "--host", host, "--port", "0", "--nthreads", "1"]
    process = subprocess.Popen([*prefix, *command], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"listens on (\S+)", line)
        if not found:
            raise SystemExit(f"no worker: {line}")
        yield found[1]
    finally:
        process.kill()
        process.wait()


def serve(args: argparse.Namespace) -> None:
    """Loads the model; for each line of the input, the name of a phase, computes it and writes what it took; after
    `_WIRE` how long sums were on their way."""
    compute = Cpu(args.nthreads)
    options = ClusterOptions(
        workers=tuple(Address.parse(text) for text in args.workers),
        shares=(1.0,) * (1 + len(args.workers)),
        max_seq_len=max(args.prompt, args.gen),
        n_sequences=1,
        n_parallel=1,
        wire=ElementType.Q80,
        cache_type=ElementType.F16,
        node=NodeSettings(),
        all_reduce=Algorithm(args.all_reduce),
    )
    model = shape_named(args.shape, args.layers, ElementType.Q40)
    with (
        contextlib.closing(random_checkpoint(model)) as checkpoint,
        contextlib.closing(Cluster.open(checkpoint, compute, options, lambda done, total: None)) as cluster,
    ):
        meter = Meter(cluster, compute, args.prompt, args.gen)
        print(json.dumps(dataclasses.asdict(cluster.reduce_plan)), flush=True)
        for line in sys.stdin:
            phase = line.strip().removeprefix(_WIRE)
            print(
                json.dumps(meter.wire_ms(phase) if line.startswith(_WIRE) else meter.measure(phase)),
                flush=True,
            )


class Meter:
    """Computes a phase and says what it took."""

    def __init__(self, cluster: Cluster, compute: Cpu, n_prompt: int, n_gen: int) -> None:
        self._cluster, self._compute = cluster, compute
        ids = np.random.default_rng(0).integers(0, cluster.config.vocab_size, max(n_prompt, n_gen)).tolist()
        size = cluster.max_rows
        self._steps = {
            "prefill": [
                self._chunk(ids[i : min(i + size, n_prompt)], i, int(i + size >= n_prompt))
                for i in range(0, n_prompt, size)
            ],
            "decode": [self._chunk([ids[i]], i, 1) for i in range(n_gen)],
        }
        self._trace: ClusterTrace | None = None
        self._n_seen = [0] * cluster.n_nodes

    def _chunk(self, ids: list[int], start: int, n_wanted: int) -> TokenChunk:
        return TokenChunk(ids, start, self._cluster.cache.lone_pages(start, len(ids)), n_wanted)

    def measure(self, phase: str) -> dict[str, Any]:
        """Tokens a second; for each node the milliseconds of a step that it computed, waited and received; and those
        that the root spent in native operations."""
        cluster, steps, times = self._cluster, self._steps[phase], []
        start, native_s = time.perf_counter(), self._compute.native_s
        for run in steps:
            cluster.step(ragged_batch([run]))
            times.append(
                [dataclasses.astuple(cluster.timeline.last(rank)) for rank in range(cluster.n_nodes)]
            )
        seconds = time.perf_counter() - start
        return {
            "tok_per_s": sum(len(run.token_ids) for run in steps) / seconds,
            "nodes_ms": (1e3 * np.mean(times, axis=0)).round(3).tolist(),
            "native_ms": round(1e3 * (self._compute.native_s - native_s) / len(steps), 3),
        }

    def wire_ms(self, phase: str) -> float:
        """Milliseconds of a step that sums were on their way, once everyone had sent his part. From the first call on
        all nodes trace what they do, which takes time: `measure` comes before."""
        if self._trace is None:
            self._trace = self._cluster.begin_trace()
        self.measure(phase)
        return 1e3 * self._wire_s() / len(self._steps[phase])

    def _wire_s(self) -> float:
        """The exchanges since the last call. Who comes last to an exchange waits for nobody: his time counts."""
        assert self._trace is not None
        seconds = []
        for rank, spans in enumerate(self._trace.gather()):
            exchanges = spans[spans["name"] == SpanName.EXCHANGE][self._n_seen[rank] :]
            self._n_seen[rank] += len(exchanges)
            seconds.append(exchanges["stop_s"] - exchanges["start_s"])
        return float(np.min(seconds, axis=0).sum())


def compare(args: argparse.Namespace) -> None:
    with root([], args.nodes, [], args) as one, several_nodes(args) as several:
        for phase in PHASES:
            for _ in range(2):  # to warm up
                one.measure(phase), several.measure(phase)
        measured: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {phase: [] for phase in PHASES}
        for round_ in range(args.rounds):
            for phase in PHASES:
                order = (one, several) if round_ % 2 == 0 else (several, one)
                first, second = (model.measure(phase) for model in order)
                measured[phase].append((first, second) if round_ % 2 == 0 else (second, first))
        wire_ms = {phase: statistics.median(several.wire_ms(phase) for _ in range(3)) for phase in PHASES}
    for phase in PHASES:
        _report(phase, measured[phase], wire_ms[phase], args)


def _report(
    phase: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]], wire_ms: float, args: argparse.Namespace
) -> None:
    speeds = [[measured["tok_per_s"] for measured in of_kind] for of_kind in zip(*pairs, strict=True)]
    ratios = sorted(several / one for one, several in zip(*speeds, strict=True))
    one, several = map(statistics.median, speeds)
    print(
        f"{phase}: 1 node x {args.nodes} threads {one:.1f} tokens/s, {args.nodes} nodes x 1 thread {several:.1f}; "
        f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    )
    for index, kind in enumerate(("1 node", f"{args.nodes} nodes")):
        native_ms = statistics.median(pair[index]["native_ms"] for pair in pairs)
        nodes = np.median([pair[index]["nodes_ms"] for pair in pairs], axis=0)
        texts = [f"rank {rank} {c:.2f} + {w:.2f} + {m:.2f}" for rank, (c, w, m) in enumerate(nodes)]
        print(
            f"  {kind}, ms a step (computing + waiting + receiving): {', '.join(texts)}; root native {native_ms:.2f}"
        )
    print(f"  sums on their way, traced by themselves: {wire_ms:.2f} ms a step")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--pinned", action="store_true", help="each node on a core of its own")
    parser.add_argument("--bed", metavar="RATE", help="of links of a virtual switch (1gbit)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs (default %(default)s)")
    parser.add_argument("--shape", default="llama-3.2-1b", choices=SHAPES)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--all-reduce", default="auto", choices=[a.value for a in Algorithm])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--nthreads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--workers", nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    if reason := args.bed and testbed.missing():
        raise SystemExit(f"no test bed here: {reason}")
    compare(args)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
