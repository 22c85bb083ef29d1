"""Element types."""

from __future__ import annotations

from dllama.dtypes import ElementType


def test_a_type_that_is_given_is_not_taken_for_none() -> None:
    """`--kv-cache-type f32` beside q80 buffers was f16, and `bench --weights-float-type f32` was q40."""
    for given in ElementType:
        assert (given or None) is given


def test_labels_are_read_as_people_write_them() -> None:
    for dtype in ElementType:
        assert ElementType.from_label(dtype.label) is dtype
    assert ElementType.from_label("Q4_K") is ElementType.Q4K
    assert ElementType.from_label("iq4_nl") is ElementType.IQ4NL
