"""Norms of rows, with a weight for each column: RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467), and LayerNorm (Ba
et al. 2016, arXiv:1607.06450), which takes the mean away first and has a bias.

T rows of the step, D model width.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping

from dllama.dtypes import ElementType
from dllama.kernels import Buffer, Device, Rows
from dllama.sharding import Tensor


class NormKind(enum.StrEnum):
    RMS = "rms"
    LAYER = "layer"

    def tensors(self, name: str, dim: int) -> Iterator[Tensor]:
        """Those of a norm of this kind that is called `name`."""
        yield Tensor(name, (dim,), ElementType.F32)
        if self is NormKind.LAYER:
            yield Tensor(_bias_name(name), (dim,), ElementType.F32)


@dataclasses.dataclass(frozen=True)
class Norm:
    """A LayerNorm where there is a `bias`, else an RMSNorm."""

    weight: Buffer
    bias: Buffer | None
    eps: float

    @classmethod
    def named(cls, name: str, vectors: Mapping[str, Buffer], eps: float) -> Norm:
        """The one that is called `name`, of `vectors` by their names."""
        return cls(vectors[name], vectors.get(_bias_name(name)), eps)

    def compute(self, device: Device, out: Rows, x: Buffer, n_rows: int) -> None:
        """out [T, D] := x [T, D] after the norm."""
        if self.bias is None:
            device.rms_norm(out, x, self.weight, self.eps, n_rows)
        else:
            device.layer_norm(out, x, self.weight, self.bias, self.eps, n_rows)

    def compute_in_order(self, device: Device, out: Buffer, x: Buffer, n_rows: int) -> None:
        """The same with the same bits on every device, for what goes into the residual stream; of an RMSNorm only."""
        assert self.bias is None
        device.rms_norm_in_order(out, x, self.weight, self.eps, n_rows)


def _bias_name(name: str) -> str:
    return f"{name}_bias"
