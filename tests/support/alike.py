"""Models whose layers are all alike, by their numbers: short to write, and to change one of."""

from __future__ import annotations

import dataclasses

from dllama.dtypes import ElementType
from dllama.model import (
    Activation,
    Attention,
    Dense,
    Layer,
    ModelConfig,
    ModelSpec,
    Rope,
    RopeScaling,
    RopeStyle,
    YarnScaling,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alike:
    """A ModelConfig, flat."""

    family: str = "llama"
    dim: int = 4096
    ffn_dim: int = 14336
    n_layers: int = 2
    n_heads: int = 32
    n_kv_heads: int = 8
    head_dim: int = 128
    vocab_size: int = 128256
    max_seq_len: int = 8192
    norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_style: RopeStyle = RopeStyle.ADJACENT
    rope_scaling: RopeScaling | YarnScaling | None = None
    activation: Activation = Activation.SILU
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    weight_type: ElementType = ElementType.Q40

    @property
    def group(self) -> int:
        return self.n_heads // self.n_kv_heads

    @property
    def config(self) -> ModelConfig:
        attention = Attention(
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            rope=Rope(theta=self.rope_theta, style=self.rope_style, scaling=self.rope_scaling),
            window=self.sliding_window,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
        )
        dense = Dense(ffn_dim=self.ffn_dim, activation=self.activation)
        return ModelConfig.of_layers(
            [Layer(mixer=attention, feed_forward=dense)] * self.n_layers,
            family=self.family,
            dim=self.dim,
            vocab_size=self.vocab_size,
            max_seq_len=self.max_seq_len,
            norm_eps=self.norm_eps,
        )

    @property
    def model(self) -> ModelSpec:
        return ModelSpec.uniform(self.config, self.weight_type)


def alike(
    config: ModelConfig, weight_type: ElementType = ElementType.Q40, *, layer: int | None = None
) -> Alike:
    """The numbers of a model whose layers are alike, but for those of a mixture of experts; or as if all of them were
    as this `layer` is."""
    of_layer = config.layer(layer or 0)
    mixer, rope = of_layer.mixer, of_layer.mixer.rope
    assert layer is not None or all(kind.mixer == mixer for kind in config.kinds)
    assert rope is not None
    return Alike(
        family=config.family,
        dim=config.dim,
        ffn_dim=of_layer.feed_forward.ffn_dim if isinstance(of_layer.feed_forward, Dense) else 0,
        n_layers=config.n_layers,
        n_heads=mixer.n_heads,
        n_kv_heads=mixer.n_kv_heads,
        head_dim=mixer.head_dim,
        vocab_size=config.vocab_size,
        max_seq_len=config.max_seq_len,
        norm_eps=config.norm_eps,
        rope_theta=rope.theta,
        rope_style=rope.style,
        rope_scaling=rope.scaling,
        activation=of_layer.feed_forward.activation,
        qkv_bias=mixer.qkv_bias,
        qk_norm=mixer.qk_norm,
        sliding_window=mixer.window,
        weight_type=weight_type,
    )
