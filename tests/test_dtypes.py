"""Element types."""

from __future__ import annotations

from dllama.dtypes import ElementType


def test_a_type_that_is_given_is_not_taken_for_none() -> None:
    """`--kv-cache-type f32` beside q80 buffers was f16, and `bench --weights-float-type f32` was q40."""
    for given in ElementType:
        assert (given or None) is given
