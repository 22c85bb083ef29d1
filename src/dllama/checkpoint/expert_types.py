"""Gate and up projections of one layer's experts are packed together, so they have one type."""

from __future__ import annotations

from dllama.dtypes import ElementType


def make_experts_agree(types: dict[str, ElementType]) -> int:
    """Where they differ, both become q80. The number of layers in which they did."""
    n_differing = 0
    for gate in [name for name in types if name.endswith(".experts_gate")]:
        up = gate.removesuffix("gate") + "up"
        if types[gate] is not types[up]:
            types[gate] = types[up] = ElementType.Q80
            n_differing += 1
    return n_differing
