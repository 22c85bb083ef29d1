"""Bytes that MLX and compressed-tensors made (tools/make_quantised_goldens.py) mean here what they mean there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint.hf.matrices import quantised_matrix
from dllama.checkpoint.recipes import as_type
from dllama.dtypes import ElementType
from dllama.formats.safetensors import SafetensorsFile

MADE = sorted((Path(__file__).parent / "quantised_by_others").glob("*.safetensors"))
EPSILON = np.finfo(np.float32).eps


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.stem)
def test_a_matrix(path: Path) -> None:
    """A product and a sum in float32, which may be rounded once or twice."""
    file = SafetensorsFile(path)
    n_rows, n_cols = file.tensors["meant"].shape
    matrix = quantised_matrix(dict.fromkeys(file.tensors, file), "layer.weight", n_rows, n_cols, None)
    assert matrix is not None
    got = as_type(matrix, ElementType.F32).take(range(n_rows), range(n_cols)).view(np.float32)
    meant = file.bytes_of("meant").view(np.float32).reshape(n_rows, n_cols)
    np.testing.assert_allclose(got, meant, rtol=0, atol=2 * EPSILON * np.abs(meant).max())
