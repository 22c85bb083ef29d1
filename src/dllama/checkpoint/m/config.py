"""A `.m` header becomes a ModelConfig, and back.

Extensions to Distributed Llama's format, both refused by its reader and not misread:
- qwen2 has an architecture number of its own (0xD11A02), with F32 bias vectors q, k, v after the matrices q,
  k, v of each layer. Its q and k rows are in halves, as in the Hugging Face files.
- numbers that the format keeps as integers and that are not whole (rope theta, factors of rope scaling), or
  that it does not know (a norm epsilon other than 1e-5 and 1e-6), are written as the bits of a float32 under
  keys of dllama's own (formats/m_file.py).
- YaRN, and rope scaling of pairs in halves (checkpoint/m/rope.py).

The format has no key for a sliding window. A model with one is written with a context no longer than its
window, where the window hides nothing; `header_notes` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from dllama.checkpoint.m.numbers import bits_of_float, float_of_bits, number, number_pair
from dllama.checkpoint.m.rope import ROPE_HALVES, read_scaling, scaling_pairs
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.m_file import FIRST_OWN_KEY, MKey
from dllama.model import (
    Activation,
    Attention,
    Dense,
    Experts,
    Layer,
    ModelConfig,
    Rope,
    RopeStyle,
    shortest_float32,
)
from dllama.model.limits import fault_in_sizes

T = TypeVar("T")

_LLAMA, _QWEN3, _QWEN3_MOE, _QWEN2 = 0xABCD00, 0xABCD01, 0xABCD02, 0xD11A02
_FAMILY_OF = {_LLAMA: "llama", _QWEN3: "qwen3", _QWEN3_MOE: "qwen3_moe", _QWEN2: "qwen2"}
_ARCHITECTURE_OF = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "qwen2": _QWEN2,
}
_IN_HALVES = ("qwen2", "qwen3", "qwen3_moe")
_WITH_BIASES = ("qwen2",)
_WITH_HEAD_NORMS = ("qwen3", "qwen3_moe")
_WITH_EXPERTS = ("qwen3_moe",)
_ACTIVATIONS = {0: Activation.GELU, 1: Activation.SILU}
_WEIGHT_TYPES = (ElementType.F32, ElementType.F16, ElementType.Q40, ElementType.Q80)
_NORM_EPSILONS = {5: 1e-5, 6: 1e-6}
_EXTENSIONS = {
    MKey.NORM_EPSILON_BITS: "a norm epsilon other than 1e-5 and 1e-6",
    MKey.ROPE_THETA_BITS: "a rope theta that is no whole number",
    MKey.ROPE_SCALING_FACTOR_BITS: "a rope scaling factor that is no whole number",
    MKey.ROPE_LOW_FREQ_FACTOR_BITS: "a low frequency factor that is no whole number",
    MKey.ROPE_HIGH_FREQ_FACTOR_BITS: "a high frequency factor that is no whole number",
    MKey.YARN_TRUNCATE: "YaRN",
    MKey.ROPE_SCALED_HALVES: "rope scaling of pairs in halves",
}
"""What dllama's own keys say; of YaRN's, the last."""
_REQUIRED = (
    MKey.ARCHITECTURE,
    MKey.DIM,
    MKey.FFN_DIM,
    MKey.N_LAYERS,
    MKey.N_HEADS,
    MKey.N_KV_HEADS,
    MKey.VOCAB_SIZE,
    MKey.MAX_SEQ_LEN,
    MKey.WEIGHT_TYPE,
)


def config_from_header(pairs: Mapping[MKey, int], path: Path) -> ModelConfig:
    """The model that a header describes. `path` is for messages.

    Raises ModelFileError for a damaged header, UnsupportedModelError for an architecture that is not known.
    """
    for key in _REQUIRED:
        if key not in pairs:
            raise ModelFileError(f"{path}: its header lacks the key {int(key)} ({key.name})")
    family = _family(pairs, path)
    attention, feed_forward = _attention(pairs, family, path), _feed_forward(pairs, family, path)
    n_layers = pairs[MKey.N_LAYERS]
    fault = fault_in_sizes(n_layers=n_layers)
    if not fault:
        config = ModelConfig.of_layers(
            [Layer(mixer=attention, feed_forward=feed_forward)] * n_layers,
            family=family,
            dim=pairs[MKey.DIM],
            vocab_size=pairs[MKey.VOCAB_SIZE],
            max_seq_len=pairs[MKey.MAX_SEQ_LEN],
            norm_eps=_norm_eps(pairs, path),
        )
        fault = config.fault()
    if fault:
        raise ModelFileError(f"{path}: its header is damaged: {fault}")
    return config


def weight_type_of(pairs: Mapping[MKey, int], path: Path) -> ElementType:
    """The element type of the file's matrices. Raises ModelFileError for one that it cannot have."""
    return _choice(pairs, MKey.WEIGHT_TYPE, -1, {int(kind): kind for kind in _WEIGHT_TYPES}, path)


def header_from_config(config: ModelConfig, weight_type: ElementType) -> list[tuple[MKey, int]]:
    """The pairs that describe `config`, whose layers are alike. What an older reader takes for granted is left out."""
    attention, feed_forward, rope = _only_layer(config)
    experts = feed_forward if isinstance(feed_forward, Experts) else None
    pairs = [
        (MKey.VERSION, 0),
        (MKey.ARCHITECTURE, _ARCHITECTURE_OF[config.family]),
        (MKey.DIM, config.dim),
        (MKey.FFN_DIM, _ffn_dim(feed_forward)),
        (MKey.N_LAYERS, config.n_layers),
        (MKey.N_HEADS, attention.n_heads),
        (MKey.N_KV_HEADS, attention.n_kv_heads),
        (MKey.N_EXPERTS, experts.n_experts if experts else 0),
        (MKey.N_ACTIVE_EXPERTS, experts.top_k if experts else 0),
        (MKey.VOCAB_SIZE, config.vocab_size),
        (MKey.MAX_SEQ_LEN, min(config.max_seq_len, attention.window or config.max_seq_len)),
        (MKey.ACTIVATION, 0 if feed_forward.activation is Activation.GELU else 1),
        (MKey.WEIGHT_TYPE, int(weight_type)),
        number_pair(MKey.ROPE_THETA, MKey.ROPE_THETA_BITS, rope.theta),
        *scaling_pairs(rope),
    ]
    if experts:
        pairs.append((MKey.MOE_FFN_DIM, experts.expert_dim))
    if attention.head_dim * attention.n_heads != config.dim:
        pairs.append((MKey.HEAD_DIM, attention.head_dim))
    # 1e-5 is 9.999999747378752e-06 where it has been a float32, as in a GGUF file
    eps = shortest_float32(config.norm_eps)
    if eps == 1e-6:
        pairs.append((MKey.NORM_EPSILON, 6))
    elif eps != 1e-5:
        pairs.append((MKey.NORM_EPSILON_BITS, bits_of_float(eps)))
    return pairs


def header_notes(config: ModelConfig) -> list[str]:
    """What a `.m` file of `config` says otherwise than the model; a line each."""
    window = _only_layer(config)[0].window
    if window is None or window >= config.max_seq_len:
        return []
    return [
        f"the context is cut from {config.max_seq_len} to {window}: the model attends to a"
        f" sliding window of {window}, for which the .m format has no key"
    ]


def extensions(config: ModelConfig) -> list[str]:
    """What of a `.m` file of `config` only dllama reads: Distributed Llama refuses such a file."""
    names = [f"the architecture {config.family}"] if config.family == "qwen2" else []
    keys = {key for key, _ in header_from_config(config, ElementType.Q40) if key >= FIRST_OWN_KEY}
    names += [_EXTENSIONS[key] for key in sorted(keys) if key in _EXTENSIONS]
    return names


def _only_layer(config: ModelConfig) -> tuple[Attention, Dense | Experts, Rope]:
    """What all layers are. Raises UnsupportedModelError for what the format has no keys for."""
    layer = config.kinds[0]
    is_known = not isinstance(layer.feed_forward, Experts) or layer.feed_forward.renormalised
    is_known &= config.family in _ARCHITECTURE_OF
    mixer = layer.mixer
    if len(config.kinds) > 1 or not isinstance(mixer, Attention) or mixer.rope is None or not is_known:
        raise UnsupportedModelError(f"the .m format has no keys for a {config.family} model like this one")
    return mixer, layer.feed_forward, mixer.rope


def _attention(pairs: Mapping[MKey, int], family: str, path: Path) -> Attention:
    halves = family in _IN_HALVES or pairs.get(MKey.ROPE_TYPE) == ROPE_HALVES
    return Attention(
        n_heads=pairs[MKey.N_HEADS],
        n_kv_heads=pairs[MKey.N_KV_HEADS],
        head_dim=pairs.get(MKey.HEAD_DIM, 0) or _usual_head_dim(pairs, path),
        rope=Rope(
            theta=number(pairs, MKey.ROPE_THETA, MKey.ROPE_THETA_BITS, 10000.0),
            style=RopeStyle.HALVES if halves else RopeStyle.ADJACENT,
            scaling=read_scaling(pairs, family == "llama", path),
        ),
        qkv_bias=family in _WITH_BIASES,
        qk_norm=family in _WITH_HEAD_NORMS,
    )


def _usual_head_dim(pairs: Mapping[MKey, int], path: Path) -> int:
    dim, n_heads = pairs[MKey.DIM], pairs[MKey.N_HEADS]
    if n_heads < 1 or dim % n_heads:
        raise ModelFileError(f"{path}: its header is damaged: dim {dim} is no multiple of {n_heads} heads")
    return dim // n_heads


def _feed_forward(pairs: Mapping[MKey, int], family: str, path: Path) -> Dense | Experts:
    activation = _choice(pairs, MKey.ACTIVATION, 1, _ACTIVATIONS, path)
    if family not in _WITH_EXPERTS:
        return Dense(ffn_dim=pairs[MKey.FFN_DIM], activation=activation)
    for key in (MKey.N_EXPERTS, MKey.N_ACTIVE_EXPERTS, MKey.MOE_FFN_DIM):
        if key not in pairs:
            raise ModelFileError(f"{path}: its header lacks the key {int(key)} ({key.name})")
    return Experts(
        n_experts=pairs[MKey.N_EXPERTS],
        top_k=pairs[MKey.N_ACTIVE_EXPERTS],
        expert_dim=pairs[MKey.MOE_FFN_DIM],
        activation=activation,
        renormalised=True,
    )


def _ffn_dim(feed_forward: Dense | Experts) -> int:
    """Of experts what Qwen's config.json says of them too, though nothing has this width."""
    if isinstance(feed_forward, Experts):
        return feed_forward.top_k * feed_forward.expert_dim
    return feed_forward.ffn_dim


def _family(pairs: Mapping[MKey, int], path: Path) -> str:
    architecture = pairs[MKey.ARCHITECTURE]
    # Until 0.10 the numbers of qwen3 and qwen3_moe meant Grok-1 and Mixtral, which have no key above 18.
    is_old = pairs.get(MKey.N_EXPERTS, 0) > 0 and not pairs.keys() & {MKey.HEAD_DIM, MKey.MOE_FFN_DIM}
    what = None
    if architecture == _QWEN3_MOE and is_old:
        what = "Mixtral"
    elif architecture == _QWEN3 and is_old:
        what = "Grok-1"
    elif architecture not in _FAMILY_OF:
        what = f"the unknown architecture 0x{architecture & 0xFFFFFFFF:X}"
    elif pairs.get(MKey.N_EXPERTS, 0) > 0 and architecture != _QWEN3_MOE:
        what = f"{_FAMILY_OF[architecture]} with {pairs[MKey.N_EXPERTS]} experts"
    if what is not None:
        known = ", ".join(_ARCHITECTURE_OF)
        raise UnsupportedModelError(f"{path}: holds {what}, which is not supported; supported are {known}")
    return _FAMILY_OF[architecture]


def _choice(pairs: Mapping[MKey, int], key: MKey, default: int, choices: Mapping[int, T], path: Path) -> T:
    value = pairs.get(key, default)
    if value not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise ModelFileError(f"{path}: its header has {key.name} {value}; known are {known}")
    return choices[value]


def _norm_eps(pairs: Mapping[MKey, int], path: Path) -> float:
    if MKey.NORM_EPSILON_BITS in pairs:
        return float_of_bits(pairs[MKey.NORM_EPSILON_BITS])
    return _choice(pairs, MKey.NORM_EPSILON, 5, _NORM_EPSILONS, path)
