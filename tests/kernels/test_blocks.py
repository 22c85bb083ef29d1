"""What blocks stand for: bit for bit what the gguf package makes of random bytes, for every element type."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.formats.gguf import GgmlType
from dllama.kernels.blocks import decode


@pytest.mark.parametrize("dtype", ElementType)
def test_random_bytes_are_decoded_as_by_the_gguf_package(dtype: ElementType) -> None:
    """Scales of every size, infinity and NaN are among them."""
    n = 3 * 256
    data = np.random.default_rng(7).integers(0, 256, (400, n // dtype.block * dtype.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        wanted = gguf.dequantize(data, gguf.GGMLQuantizationType(GgmlType.of(dtype)))
    found = decode(dtype, data, n)
    assert found.shape == wanted.shape == (400, n)
    assert found.dtype == np.float32
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), ~numbers)
    np.testing.assert_array_equal(found.view(np.uint32)[numbers], wanted.view(np.uint32)[numbers])


@pytest.mark.parametrize("dtype", ElementType)
def test_leading_elements_of_longer_rows(dtype: ElementType) -> None:
    data = np.random.default_rng(8).integers(
        0, 128, (3, 2 * 256 // dtype.block * dtype.block_bytes), np.uint8
    )
    np.testing.assert_array_equal(decode(dtype, data, 256), decode(dtype, data, 512)[:, :256])
