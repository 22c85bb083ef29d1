"""A layer: a mixer, which lets rows look at each other, and a feed-forward, which does not. Each has a norm before it,
and what it computes is added to the residual stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from dllama.model.layers.attention import Attention
from dllama.model.layers.delta_net import DeltaNet
from dllama.model.layers.dense import Dense
from dllama.model.layers.experts import Experts
from dllama.model.layers.latent_attention import LatentAttention
from dllama.model.layers.workspace import AnyShape, BufferShape, TypeOf, normed_buffer
from dllama.model.norm import NormKind
from dllama.sharding import Along, RankSpans, Tensor

Mixer: TypeAlias = Attention | DeltaNet | LatentAttention
FeedForward: TypeAlias = Dense | Experts

_MIXERS: Mapping[str, Callable[[dict[str, Any]], Mixer]] = MappingProxyType(
    {
        "attention": Attention.from_json,
        "deltanet": DeltaNet.from_json,
        "latentattention": LatentAttention.from_json,
    }
)
_FEED_FORWARDS: Mapping[str, Callable[[dict[str, Any]], FeedForward]] = MappingProxyType(
    {"dense": Dense.from_json, "experts": Experts.from_json}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """`norm`: of which kind the norms are. `norms_after`: what each part computes is normed before it is added to the
    residual stream."""

    mixer: Mixer
    feed_forward: FeedForward
    norm: NormKind = NormKind.RMS
    norms_after: bool = False

    def fault(self) -> str | None:
        """What is impossible in it, as the end of a sentence, or None."""
        if self.norm is not NormKind.RMS and isinstance(self.feed_forward, Experts):
            return "experts behind a LayerNorm are not known (a router computes an RMSNorm itself)"
        if self.norm is not NormKind.RMS and self.norms_after:
            return "a LayerNorm of a sum is not known (its bits would differ between ranks)"
        return self.mixer.fault() or self.feed_forward.fault()

    def tensors(self, dim: int, type_of: TypeOf) -> list[Tensor]:
        """In the order of the `.m` file: norms come last."""
        tensors = [*self.mixer.tensors(dim, type_of), *self.feed_forward.tensors(dim, type_of)]
        norms = ["attention_norm", "ffn_norm"]
        norms += ["post_attention_norm", "post_ffn_norm"] if self.norms_after else []
        tensors += [tensor for name in norms for tensor in self.norm.tensors(name, dim)]
        return sorted(tensors, key=lambda tensor: tensor.name.endswith(("_norm", "_norm_bias")))

    def buffers(self, dim: int, spans: RankSpans, type_of: TypeOf) -> Iterator[AnyShape]:
        """All that a rank computes the layer in."""
        yield from (shape for shape in self.mixer.buffers(dim, spans, type_of) if shape is not None)
        yield from (shape for shape in self.feed_forward.buffers(dim, spans, type_of) if shape is not None)
        yield from normed_buffers(dim, self.tensors(dim, type_of))

    def to_json(self) -> dict[str, Any]:
        return {
            "mixer": {"kind": type(self.mixer).__name__.lower()} | dataclasses.asdict(self.mixer),
            "feed_forward": {"kind": type(self.feed_forward).__name__.lower()}
            | dataclasses.asdict(self.feed_forward),
            "norm": self.norm,
            "norms_after": self.norms_after,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Layer:
        """The inverse of to_json. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            **values
            | {
                "mixer": _from_json(_MIXERS, values["mixer"]),
                "feed_forward": _from_json(_FEED_FORWARDS, values["feed_forward"]),
                "norm": NormKind(values["norm"]),
            }
        )


def normed_buffers(dim: int, tensors: Iterable[Tensor]) -> list[BufferShape]:
    """What the norm before these tensors writes: for each way in which matrices take their input, if they take it."""
    inputs = {
        normed_buffer(dim, tensor.dtype): None
        for tensor in tensors
        if tensor.is_packed and (tensor.cut is None or tensor.cut.along is Along.ROWS)
    }
    return list(inputs)


def _from_json(kinds: Mapping[str, Callable[[dict[str, Any]], Any]], values: dict[str, Any]) -> Any:
    numbers = dict(values)
    return kinds[numbers.pop("kind")](numbers)
