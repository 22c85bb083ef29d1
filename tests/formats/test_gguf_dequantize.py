"""Types without kernels: bit for bit what the gguf package makes of random bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from dllama.formats.gguf import GgmlType, can_dequantize, dequantize

BLOCKED = [one for one in GgmlType if can_dequantize(one) and one.block > 1]


def test_all_types_of_weights_are_read() -> None:
    left = {one.name for one in GgmlType if not can_dequantize(one) and one.element_type is None}
    assert left == {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "Q1_0"}
    assert not any(can_dequantize(one) for one in GgmlType if one.element_type is not None)


@pytest.mark.parametrize("ggml_type", BLOCKED, ids=lambda one: one.name)
def test_random_bytes_are_dequantized_as_by_the_gguf_package(ggml_type: GgmlType) -> None:
    """Scales of every size, infinity and NaN are among them, and more blocks than a run has."""
    data = np.random.default_rng(9).integers(0, 256, 2500 * ggml_type.block_bytes + 1, np.uint8)[1:]
    with np.errstate(all="ignore"):
        wanted = gguf.dequantize(data.copy(), gguf.GGMLQuantizationType(ggml_type))
    found = dequantize(ggml_type, data)
    assert found.shape == wanted.shape == (2500 * ggml_type.block,)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), ~numbers)
    np.testing.assert_array_equal(
        found.view(np.uint32)[numbers], wanted.astype(np.float32).view(np.uint32)[numbers]
    )


def test_doubles() -> None:
    values = np.array([1.5, 1e300, -0.1])
    assert dequantize(GgmlType.F64, values.view(np.uint8)).tolist() == [1.5, np.inf, float(np.float32(-0.1))]
