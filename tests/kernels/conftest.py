from __future__ import annotations

import numpy as np
import pytest

from dllama.kernels import Compute, supported_isas


@pytest.fixture(params=supported_isas())
def compute(request: pytest.FixtureRequest) -> Compute:
    return Compute(2, request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(abs(hash_of(request.node.name)))


def hash_of(name: str) -> int:
    """The same number for the same name in every process (hash() is salted)."""
    return int.from_bytes(name.encode(), "little") % (2**63)
