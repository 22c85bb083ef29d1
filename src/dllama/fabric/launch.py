"""Whether this process is one of several that `mpiexec` or a job scheduler has started together.

Known from the environment alone, so that nobody who does not use MPI needs it.
"""

from __future__ import annotations

from collections.abc import Mapping

_RANK_VARIABLES = (
    "PMI_RANK",  # MPICH, Intel MPI, MVAPICH, MS-MPI; Slurm with --mpi=pmi2
    "PMIX_RANK",  # Open MPI 5; Slurm with --mpi=pmix
    "OMPI_COMM_WORLD_RANK",  # Open MPI before 5
)


def launched_rank(environment: Mapping[str, str]) -> int | None:
    """This process's rank among those started together; None when it was started alone.

    A Slurm allocation by itself does not count: SLURM_PROCID is set in its shell too, where nobody else runs.
    """
    for name in _RANK_VARIABLES:
        value = environment.get(name, "")
        if value.isdecimal():
            return int(value)
    return None
