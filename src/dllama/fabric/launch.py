"""Whether this process is one of several that `mpiexec` or a job scheduler has started together.

Known from the environment alone, so that nobody who does not use MPI needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dllama.fabric.base import Fabric

_RANK_VARIABLES = (
    "PMI_RANK",  # MPICH, Intel MPI, MVAPICH, MS-MPI; Slurm with --mpi=pmi2
    "PMIX_RANK",  # Open MPI 5; Slurm with --mpi=pmix
    "OMPI_COMM_WORLD_RANK",  # Open MPI before 5
)


class Job(Protocol):
    """Processes that were started together (fabric/mpi.py): they need no addresses to find each other."""

    @property
    def rank(self) -> int: ...

    @property
    def n_ranks(self) -> int: ...

    @property
    def lobby(self) -> Fabric:
        """Where processes wait between sessions; it lasts as long as the job."""

    def connect(self) -> Fabric:
        """A fabric of all processes, apart from all others that this job has. All of them call it at the same time.
        Raises PeerTimeoutError when one does not."""


def launched_rank(environment: Mapping[str, str]) -> int | None:
    """This process's rank among those started together; None when it was started alone.

    A Slurm allocation by itself does not count: SLURM_PROCID is set in its shell too, where nobody else runs.
    """
    for name in _RANK_VARIABLES:
        value = environment.get(name, "")
        if value.isdecimal():
            return int(value)
    return None
