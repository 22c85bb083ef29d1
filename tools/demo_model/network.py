"""The demo model in plain PyTorch: Llama's mathematics with Hugging Face's names and layout of the weights.

RMSNorm, rotary embeddings over half heads, grouped queries, SwiGLU, tied embeddings. With `quantised` set,
every matrix is rounded to Q40 on the way (the gradient passes straight through), so that the weights learn to
survive it.

Shapes: B sequences, T positions, D width, H query heads, K KV heads, E head width, F FFN width, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything is a multiple of 32, and F has 24 blocks of 32: eight nodes can share them in q40."""

    dim: int = 256
    n_layers: int = 4
    n_heads: int = 8
    n_kv_heads: int = 4
    head_dim: int = 32
    ffn_dim: int = 768
    vocab_size: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    max_seq_len: int = 1024

    def to_hugging_face(self) -> dict[str, object]:
        """The entries of config.json that describe the network."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.dim,
            "intermediate_size": self.ffn_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_seq_len,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "pretraining_tp": 1,
            "use_cache": True,
        }


def round_to_q40(weight: Tensor) -> Tensor:
    """What is left of `[out, in]` after Q40: blocks of 32 along `in`, d = the largest, with its sign, / -8."""
    blocks = weight.reshape(-1, 32)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    nibbles = (blocks * inverse + 8.5).trunc().clamp(0, 15)
    return ((nibbles - 8) * scale.half().float()).reshape(weight.shape)


def round_to_q80(rows: Tensor) -> Tensor:
    """What is left of `[..., n]` after Q80: blocks of 32, d = max|x| / 127."""
    blocks = rows.reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    return ((blocks * inverse).round() * scale.half().float()).reshape(rows.shape)


class Matrix(nn.Linear):
    """A linear layer without bias that can act as its Q40 self, on Q80 activations when not training."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)
        self.quantised = False

    def forward(self, x: Tensor) -> Tensor:
        return (
            quantised_linear(x, self.weight, self.training)
            if self.quantised
            else functional.linear(x, self.weight)
        )


def quantised_linear(x: Tensor, weight: Tensor, training: bool) -> Tensor:
    rounded = weight + (round_to_q40(weight) - weight).detach()
    return functional.linear(x if training else round_to_q80(x), rounded)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `[B, heads, T, E]`: element i turns with element i + E/2."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.q_proj = Matrix(config.dim, config.n_heads * config.head_dim)
        self.k_proj = Matrix(config.dim, config.n_kv_heads * config.head_dim)
        self.v_proj = Matrix(config.dim, config.n_kv_heads * config.head_dim)
        self.o_proj = Matrix(config.n_heads * config.head_dim, config.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        n_sequences, n_positions, _ = x.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.view(n_sequences, n_positions, -1, self.config.head_dim).transpose(1, 2)

        group = self.config.n_heads // self.config.n_kv_heads
        query = rotate(heads(self.q_proj(x)), cos, sin)
        key = rotate(heads(self.k_proj(x)), cos, sin).repeat_interleave(group, dim=1)
        value = heads(self.v_proj(x)).repeat_interleave(group, dim=1)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(n_sequences, n_positions, -1))
        return out


class FeedForward(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.gate_proj = Matrix(config.dim, config.ffn_dim)
        self.up_proj = Matrix(config.dim, config.ffn_dim)
        self.down_proj = Matrix(config.ffn_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Network(nn.Module):
    """Token ids `[B, T]` to logits `[B, T, V]`, or `[n, V]` for the n positions where `wanted [B, T]` is true.

    The mask `[B, 1, T, T]` is true where a position may look; None means everything up to itself.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.quantised = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)
        half = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(torch.arange(config.max_seq_len), config.rope_theta**-half).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * self.config.n_layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(weight, std=0.02 * shrink)

    def set_quantised(self, quantised: bool) -> None:
        """Whether matrices act as their Q40 selves; the embedding does so only where it is the head."""
        self.quantised = quantised
        for module in self.modules():
            if isinstance(module, Matrix):
                module.quantised = quantised

    def forward(self, token_ids: Tensor, mask: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        n_positions = token_ids.shape[1]
        cos, sin = self.cos[:n_positions], self.sin[:n_positions]
        x = self.embed_tokens(token_ids)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        x = self.norm(x) if wanted is None else self.norm(x[wanted])
        head = self.embed_tokens.weight
        return quantised_linear(x, head, self.training) if self.quantised else functional.linear(x, head)

    def to_hugging_face(self) -> dict[str, Tensor]:
        """The weights in bf16 under the names of LlamaForCausalLM. The head is the embedding, stored once."""
        return {
            f"model.{name}": weight.detach().bfloat16().contiguous()
            for name, weight in self.named_parameters()
        }

    def load_hugging_face(self, weights: dict[str, Tensor]) -> None:
        self.load_state_dict(
            {name.removeprefix("model."): weight.float() for name, weight in weights.items()}
        )
