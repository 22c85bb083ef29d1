"""Times one all-reduce of a row of partial sums between processes of this computer, over loopback or MPI.

python tools/measure_allreduce.py [--ranks 2] [--rows 1] [--dim 4096] [--algorithm auto] [--rounds 20000]
mpiexec -n 2 python tools/measure_allreduce.py [the same, but for --ranks]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import socket
import time

import numpy as np

from dllama.dtypes import ElementType
from dllama.fabric import (
    ExchangeTimes,
    Fabric,
    TcpFabric,
    TcpPeer,
    broadcast,
    launched_rank,
    measure_exchange,
)
from dllama.kernels import Cpu
from dllama.model.all_reduce import Algorithm, plan_reduce
from dllama.model.partial_sums import PartialSums
from dllama.model.trace import Trace

TIMEOUT_S = 60.0
PERCENTILES = (50, 90, 99, 99.9)


def connected(rank: int, listeners: list[socket.socket]) -> TcpFabric:
    """The mesh: rank j calls every rank below it, and says who it is."""
    peers = {}
    for other in range(rank):
        connection = socket.create_connection(listeners[other].getsockname())
        connection.sendall(bytes([rank]))
        peers[other] = TcpPeer(connection, f"rank {other}")
    while len(peers) < len(listeners) - 1:
        connection, _ = listeners[rank].accept()
        other = connection.recv(1)[0]
        peers[other] = TcpPeer(connection, f"rank {other}")
    return TcpFabric(rank, peers)


def measure(fabric: Fabric, args: argparse.Namespace) -> None:
    if fabric.n_ranks == os.cpu_count():
        os.sched_setaffinity(0, {fabric.rank})
    times = measure_exchange(fabric, TIMEOUT_S)
    numbers = np.array([times.latency_s, times.byte_s])
    broadcast(fabric, numbers, 0, TIMEOUT_S)
    times = ExchangeTimes(latency_s=float(numbers[0]), byte_s=float(numbers[1]))
    plan = plan_reduce(fabric.n_ranks, times, Algorithm(args.algorithm))
    plan = dataclasses.replace(plan, overlap_bytes=None)
    device = Cpu(1)
    random = np.random.default_rng(fabric.rank)
    partial = random.standard_normal((args.rows, args.dim), np.float32)
    bound = device.buffer(args.rows, args.dim), device.bind(partial)
    sums = PartialSums(device, fabric, *bound, ElementType.Q80, plan, TIMEOUT_S, Trace())
    (run,) = sums.runs(args.rows)
    seconds = np.empty(args.rounds)
    for index in range(args.rounds):
        start = time.perf_counter()
        run.encode()
        run.send()
        run.wait()
        run.add()
        seconds[index] = time.perf_counter() - start
    if fabric.rank == 0:
        numbers = np.percentile(seconds[args.rounds // 10 :] * 1e6, PERCENTILES)
        figures = ", ".join(f"p{p:g} {number:.1f}" for p, number in zip(PERCENTILES, numbers, strict=True))
        print(f"{fabric.n_ranks} ranks, {args.rows} x {args.dim}, {args.algorithm}: {figures} us; {plan}")


def measure_over_tcp(args: argparse.Namespace) -> None:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(args.ranks)]
    children = []
    for rank in range(1, args.ranks):
        child = os.fork()
        if child == 0:
            with contextlib.closing(connected(rank, listeners)) as fabric:
                measure(fabric, args)
            os._exit(0)
        children.append(child)
    with contextlib.closing(connected(0, listeners)) as fabric:
        measure(fabric, args)
    for child in children:
        os.waitpid(child, 0)


def measure_over_mpi(args: argparse.Namespace) -> None:
    from dllama.fabric.mpi import MpiJob  # needs the extra dllama[mpi]

    job = MpiJob()
    with contextlib.closing(job.connect()) as fabric:
        measure(fabric, args)
    job.leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--algorithm", default="auto", choices=("auto", "direct", "scattered"))
    parser.add_argument("--rounds", type=int, default=20000)
    args = parser.parse_args()
    if launched_rank(os.environ) is None:
        measure_over_tcp(args)
    else:
        measure_over_mpi(args)


if __name__ == "__main__":
    main()
