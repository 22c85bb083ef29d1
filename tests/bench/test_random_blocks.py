"""Random blocks: numbers, about 0 in the mean, that deviate by what is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from dllama.bench.random_blocks import random_blocks
from dllama.dtypes import ElementType
from dllama.kernels.blocks import decode


@pytest.mark.parametrize("dtype", [dtype for dtype in ElementType if dtype.is_blocked])
def test_elements_deviate_as_asked(dtype: ElementType) -> None:
    blocks = random_blocks(np.random.default_rng(1), dtype, 2000, 0.02)
    values = decode(dtype, blocks, dtype.block)
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.01
    factor = 2**0.5 if dtype is ElementType.MXFP4 else 1.2  # its scale is a power of two
    assert 0.02 / factor < values.std() < 0.02 * factor
