"""The axes along which a model's tensors are cut: how long each is, and where it may be cut."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dllama.sharding.spans import Axis
from dllama.sharding.tensors import Along, Cut, Tensor


def axes_of(tensors: Iterable[Tensor]) -> tuple[Axis, ...]:
    """One axis for each that the tensors name, in the order in which they do.

    Columns are cut between runs of 32 where their element type has blocks, so tensors that are cut along columns by an
    axis decide what of it stays together: all of it where no part of it is whole runs.
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
        run = tensor.dtype.run if cut.along is Along.COLS else 1
        unit = run // math.gcd(cut.width, run)
        units[cut.axis] = math.lcm(units.get(cut.axis, 1), unit)
    return tuple(
        Axis(name, n, units[name] if n % units[name] == 0 else n, fine[name]) for name, n in lengths.items()
    )


def _length(tensor: Tensor, cut: Cut) -> int:
    n = tensor.n_rows if cut.along is Along.ROWS else tensor.n_cols
    return n // cut.width * cut.shared_by
