"""Workers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.processes import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool()
    yield pool
    pool.close()
