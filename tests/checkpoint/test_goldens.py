"""A forward pass in plain NumPy, over what the checkpoint reads, gives the logits of transformers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.checkpoint import Checkpoint, convert_model, open_checkpoint
from dllama.dtypes import ElementType
from dllama.families import known_families
from dllama.model import Activation, Experts, RopeStyle, YarnScaling
from support.alike import Alike, alike

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
FAMILY_OF = {
    path.parent.name: str(json.loads(path.read_text())["model_type"])
    for path in sorted(GOLDENS.glob("*/config.json"))
}
COMPUTED = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text")
"""The families that the forward pass below knows; all are in tests/model/test_goldens.py."""
NAMES = [name for name, family in FAMILY_OF.items() if family in COMPUTED]
NOT_IN_M = ("qwen3-moe-mixed", "gemma3-two-kinds")
"""The .m format has no keys for them."""
Array = NDArray[np.float32]


def tensor(checkpoint: Checkpoint, name: str) -> Array:
    """A whole tensor, float32 [n_rows, n_cols], or [n_stacked, n_rows, n_cols]; F32 checkpoints only."""
    spec = checkpoint.tensors[name]
    read = checkpoint.read(name, (0, spec.stacked_rows), (0, spec.n_cols))
    values = np.frombuffer(read.tobytes(), dtype=np.float32).reshape(spec.n_stacked, spec.n_rows, spec.n_cols)
    return values if spec.n_stacked > 1 else values[0]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def angles(config: Alike, n: int) -> NDArray[np.float64]:
    """[n, E/2] angles, with Llama 3.1's scaling or YaRN's."""
    frequency = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.rope_scaling
    if isinstance(scaling, YarnScaling):
        frequency = frequency * np.array(
            [yarn_speed(pair, config, scaling) for pair in range(len(frequency))]
        )
    elif scaling is not None:
        turns = scaling.original_max_seq_len * frequency / (2 * math.pi)
        smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        smooth = np.clip(smooth, 0, 1)
        frequency = frequency * (smooth + (1 - smooth) / scaling.factor)
    return np.arange(n)[:, None] * frequency


def yarn_speed(pair: int, config: Alike, scaling: YarnScaling) -> float:
    """What a pair's frequency is multiplied by."""

    def border(turns: float) -> float:
        log = math.log(scaling.original_max_seq_len / (turns * 2 * math.pi))
        return config.head_dim * log / (2 * math.log(config.rope_theta))

    low, high = border(scaling.beta_fast), border(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    slowed = min(max((pair - low) / (high - low), 0), 1)
    return 1 - slowed + slowed / scaling.factor


def rope(x: Array, config: Alike) -> Array:
    """x [T, heads, E], rotated in the config's style."""
    angle = angles(config, len(x))[:, None, :]
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    if isinstance(config.rope_scaling, YarnScaling):
        cos, sin = cos * config.rope_scaling.attention_factor, sin * config.rope_scaling.attention_factor
    half = config.head_dim // 2
    adjacent = config.rope_style is RopeStyle.ADJACENT
    first, second = (
        (slice(0, None, 2), slice(1, None, 2)) if adjacent else (slice(0, half), slice(half, None))
    )
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


def attention(checkpoint: Checkpoint, layer: int, x: Array) -> Array:
    prefix, n = f"layers.{layer}.", len(x)
    mixer = checkpoint.config.layer(layer).mixer
    config = alike(checkpoint.config, layer=layer)
    heads = {}
    for part in "qkv":
        projected = x @ tensor(checkpoint, f"{prefix}{part}").T
        if config.qkv_bias:
            projected = projected + tensor(checkpoint, f"{prefix}{part}_bias")[0]
        heads[part] = projected.reshape(n, -1, config.head_dim)
        if config.qk_norm and part != "v":
            heads[part] = rms_norm(
                heads[part], tensor(checkpoint, f"{prefix}{part}_norm")[0], config.norm_eps
            )
        if part != "v":
            heads[part] = rope(heads[part], config)
    key, value = (np.repeat(heads[part], config.group, axis=1) for part in "kv")
    scores = np.einsum("thd,shd->hts", heads["q"], key) * (mixer.scale or config.head_dim**-0.5)
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    seen = (distance >= 0) & (distance < (config.sliding_window or n))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hts,shd->thd", weights, value).reshape(n, -1)
    return mixed @ tensor(checkpoint, prefix + "o").T


def mlp(checkpoint: Checkpoint, prefix: str, x: Array) -> Array:
    gate = x @ tensor(checkpoint, prefix + "gate").T
    if alike(checkpoint.config, layer=0).activation is Activation.SILU:
        gate = gate / (1 + np.exp(-gate))
    else:
        gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (gate * (x @ tensor(checkpoint, prefix + "up").T)) @ tensor(checkpoint, prefix + "down").T


def mixture(checkpoint: Checkpoint, layer: int, x: Array) -> Array:
    experts, prefix = checkpoint.config.layer(layer).feed_forward, f"layers.{layer}."
    assert isinstance(experts, Experts)
    gate, up, down = (tensor(checkpoint, f"{prefix}experts_{part}") for part in ("gate", "up", "down"))
    logits = x @ tensor(checkpoint, prefix + "router").T
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, : experts.top_k]
    out = np.zeros_like(x)
    for row, ids in enumerate(chosen):
        weights = probabilities[row, ids]
        if experts.renormalised:
            weights = weights / weights.sum()
        for expert, weight in zip(ids, weights, strict=True):
            gated = gate[expert] @ x[row]
            out[row] += weight * (down[expert] @ (gated / (1 + np.exp(-gated)) * (up[expert] @ x[row])))
    return out


def after(checkpoint: Checkpoint, name: str, x: Array) -> Array:
    """What a part computed, normed where the model has a norm for it."""
    if name not in checkpoint.tensors:
        return x
    return rms_norm(x, tensor(checkpoint, name)[0], checkpoint.config.norm_eps)


def forward(checkpoint: Checkpoint, ids: NDArray[np.int32]) -> Array:
    """Logits [T, V] of one sequence."""
    eps = checkpoint.config.norm_eps
    x = checkpoint.embed(ids) * np.float32(checkpoint.config.embedding_scale)
    for layer in range(checkpoint.config.n_layers):
        prefix = f"layers.{layer}."
        normed = rms_norm(x, tensor(checkpoint, prefix + "attention_norm")[0], eps)
        x = x + after(checkpoint, prefix + "post_attention_norm", attention(checkpoint, layer, normed))
        normed = rms_norm(x, tensor(checkpoint, prefix + "ffn_norm")[0], eps)
        is_mixture = prefix + "router" in checkpoint.tensors
        fed = mixture(checkpoint, layer, normed) if is_mixture else mlp(checkpoint, prefix, normed)
        x = x + after(checkpoint, prefix + "post_ffn_norm", fed)
    return rms_norm(x, tensor(checkpoint, "final_norm")[0], eps) @ tensor(checkpoint, "head").T


def assert_logits_close(got: Array, wanted: Array) -> None:
    error = np.abs(got - wanted)
    worst = np.unravel_index(error.argmax(), error.shape)
    bound = 1e-4 * np.abs(wanted).max()
    assert error[worst] <= bound, f"at {worst}: got {got[worst]}, wanted {wanted[worst]}, bound {bound}"


def test_there_are_goldens_of_every_family() -> None:
    assert set(FAMILY_OF.values()) == set(known_families())


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_gives_the_logits_of_transformers(name: str) -> None:
    golden = np.load(GOLDENS / name / "golden.npz")
    checkpoint = open_checkpoint(GOLDENS / name, ElementType.F32)
    assert_logits_close(forward(checkpoint, golden["prompt_ids"]), golden["logits"])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_IN_M])
def test_a_converted_model_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    golden = np.load(GOLDENS / name / "golden.npz")
    source = open_checkpoint(GOLDENS / name, ElementType.F32)
    convert_model(source, tmp_path / "model.m")
    converted = open_checkpoint(tmp_path / "model.m")
    within = alike(source.config).sliding_window or len(golden["prompt_ids"])
    assert_logits_close(forward(converted, golden["prompt_ids"][:within]), golden["logits"][:within])


def test_the_sliding_window_matters() -> None:
    """Otherwise the golden would prove nothing."""
    golden = np.load(GOLDENS / "mistral-window" / "golden.npz")
    checkpoint = open_checkpoint(GOLDENS / "mistral-window", ElementType.F32)
    checkpoint.model = dataclasses.replace(alike(checkpoint.config), sliding_window=None).model
    without = forward(checkpoint, golden["prompt_ids"])
    assert np.abs(without[-1] - golden["logits"][-1]).max() > 0.1


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-yarn")])
def test_yarn_matters(name: str) -> None:
    golden = np.load(GOLDENS / name / "golden.npz")
    checkpoint = open_checkpoint(GOLDENS / name, ElementType.F32)
    checkpoint.model = dataclasses.replace(alike(checkpoint.config), rope_scaling=None).model
    without = forward(checkpoint, golden["prompt_ids"])
    assert np.abs(without[-1] - golden["logits"][-1]).max() > 0.1
