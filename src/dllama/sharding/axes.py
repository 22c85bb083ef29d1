"""The axes along which a model's tensors are cut: how long each is, and where it may be cut."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dllama.sharding.spans import Axis
from dllama.sharding.tensors import Along, Cut, Tensor


def axes_of(tensors: Iterable[Tensor]) -> tuple[Axis, ...]:
    """One axis for each that the tensors name, in the order in which they do.

    Columns are cut between blocks of their element type, so of the tensors that are cut along columns by an axis the
    one with the largest blocks decides what stays together: all of the axis where no part of it is whole blocks.
    Raises ValueError when tensors disagree on how long an axis is.
    """
    lengths: dict[str, int] = {}
    units: dict[str, int] = {}
    fine: dict[str, bool] = {}
    for tensor in tensors:
        cut = tensor.cut
        if cut is None:
            continue
        n = _length(tensor, cut)
        if lengths.setdefault(cut.axis, n) != n:
            raise ValueError(f"{tensor.name} would have {n} in place of {cut.axis}")
        fine[cut.axis] = fine.get(cut.axis, True) and cut.width == 1
        unit = tensor.dtype.block // math.gcd(cut.width, tensor.dtype.block) if cut.along is Along.COLS else 1
        units[cut.axis] = math.lcm(units.get(cut.axis, 1), unit)
    return tuple(
        Axis(name, n, units[name] if n % units[name] == 0 else n, fine[name]) for name, n in lengths.items()
    )


def _length(tensor: Tensor, cut: Cut) -> int:
    n = tensor.n_rows if cut.along is Along.ROWS else tensor.n_cols
    return n // cut.width * cut.shared_by
