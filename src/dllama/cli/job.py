"""Under mpiexec: rank 0 is the root, and the only one that prints; the other processes are its workers."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from dllama.cli.devices import DeviceKind, make_device
from dllama.cli.options import node_settings
from dllama.errors import DllamaError, PeerError, UsageError
from dllama.node import refuse_job, serve_job

if TYPE_CHECKING:
    from dllama.fabric.mpi import MpiJob

_log = logging.getLogger(__name__)

Command = Callable[[argparse.Namespace], None]


def run_in_job(rank: int, args: argparse.Namespace, run: Callable[[Command, argparse.Namespace], int]) -> int:
    """Runs `args.command` on rank 0 with the other ranks as its workers; returns this process's exit code.

    `run(command, args)` turns errors into a line and an exit code. Commands without workers run on rank 0 alone.
    """
    if not hasattr(args, "workers"):
        return run(args.command, args) if rank == 0 else 0
    if args.workers:
        return run(_refuse_workers, args) if rank == 0 else 0
    try:
        job = _join()
    except DllamaError as error:
        return run(_raise(error), args) if rank == 0 else 0
    return _as_root(job, args, run) if rank == 0 else _as_worker(job, args)


def _join() -> MpiJob:
    try:
        from dllama.fabric.mpi import MpiJob  # an extra, and MPI starts with it
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py finds no MPI library
        raise UsageError(
            f"started by mpiexec, but MPI for Python cannot be used ({error}): pip install 'dllama[mpi]' on all nodes"
        ) from error
    return MpiJob()


def _as_root(job: MpiJob, args: argparse.Namespace, run: Callable[[Command, argparse.Namespace], int]) -> int:
    args.job = job
    lost: list[PeerError] = []

    def command(args: argparse.Namespace) -> None:
        try:
            args.command(args)
        except PeerError as error:
            lost.append(error)
            raise

    try:
        code = run(command, args)
    except SystemExit as end:  # SIGTERM: the session is closed, and the job is to be left as well
        code = int(end.code or 0)
    if lost:  # someone may be gone, or wait for who is gone: nobody can end in good order
        sys.stdout.flush()
        job.abort(code)
    job.leave()
    return code


def _as_worker(job: MpiJob, args: argparse.Namespace) -> int:
    """0 also when a session failed: the root says what there is to say.

    Ctrl-C reaches every process of a job. The root ends its session then, and the workers with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        device = make_device(DeviceKind(args.device), args.nthreads, args.isa)
    except DllamaError as error:
        refuse_job(job, str(error))
    else:
        serve_job(job, device, node_settings(args), _log.info)
    job.leave()
    return 0


def _refuse_workers(_args: argparse.Namespace) -> None:
    raise UsageError(
        "--workers cannot be given under mpiexec: the workers are its other processes; leave one of the two out"
    )


def _raise(error: DllamaError) -> Command:
    def command(_args: argparse.Namespace) -> None:
        raise error

    return command
