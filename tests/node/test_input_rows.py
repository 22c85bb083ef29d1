from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.node.input_rows import encode_inputs

RANDOM = np.random.default_rng(7).standard_normal((3, 65)).astype(np.float32)


def as_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def one_in(values: NDArray[np.float32], odd: float) -> NDArray[np.float32]:
    changed = values.copy()
    changed[1, 33] = odd
    return changed


@pytest.mark.parametrize(
    ("inputs", "dtype"),
    [
        (as_bf16(RANDOM), ElementType.BF16),
        (as_bf16(RANDOM * np.float32(1e30)), ElementType.BF16),
        (np.zeros((2, 5), np.float32), ElementType.BF16),
        (-np.zeros((2, 5), np.float32), ElementType.BF16),
        (RANDOM.astype(np.float16).astype(np.float32), ElementType.F16),
        (one_in(RANDOM.astype(np.float16).astype(np.float32), -0.0), ElementType.F16),
        (RANDOM, ElementType.F32),
        (one_in(as_bf16(RANDOM * np.float32(1e-30)), 1 + 2**-10), ElementType.F32),
        (one_in(RANDOM.astype(np.float16).astype(np.float32), 65536), ElementType.F32),
    ],
)
def test_the_narrowest_exact_type(inputs: NDArray[np.float32], dtype: ElementType) -> None:
    rows = encode_inputs(inputs)
    assert rows.dtype is dtype
    assert rows.stored.nbytes == inputs.size * (4 if dtype is ElementType.F32 else 2)
    back = rows.decode()
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.view(np.uint32), inputs.view(np.uint32))
