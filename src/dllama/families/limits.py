"""What every model must satisfy, whatever file it came from."""

from __future__ import annotations

from dllama.families.config import ModelConfig, YarnScaling

# Far above any model known in 2026 (Llama 3.1 405B: 126 layers of 16384, FFN 53248), far below what would
# make a list of tensors or a size in bytes absurd. A larger number is a damaged file.
_LARGEST = {
    "dim": 1 << 18,
    "ffn_dim": 1 << 21,
    "n_layers": 1 << 12,
    "n_heads": 1 << 13,
    "n_kv_heads": 1 << 13,
    "head_dim": 1 << 13,
    "vocab_size": 1 << 24,
    "max_seq_len": (1 << 31) - 1,
}

# A float32 has room for it, and for what is computed of it.
_LARGEST_NUMBER = 1e30


def fault_in(config: ModelConfig) -> str | None:
    """What is impossible in `config`, as the end of a sentence, or None when it is sound."""
    for name, largest in _LARGEST.items():
        value = getattr(config, name)
        if not 1 <= value <= largest:
            return f"{name} is {value}, which cannot be (1 to {largest})"
    if config.n_heads % config.n_kv_heads:
        return f"{config.n_heads} query heads cannot share {config.n_kv_heads} KV heads evenly"
    if config.head_dim % 2:
        return f"head_dim is {config.head_dim}, but rope turns pairs and needs an even number"
    if not 1e-30 < config.norm_eps < 1:
        return f"norm_eps is {config.norm_eps}, which cannot be (between 0 and 1)"
    if not 1 <= config.rope_theta < _LARGEST_NUMBER:
        return f"rope_theta is {config.rope_theta}, which cannot be (1 or more)"
    window = config.sliding_window
    if window is not None and not 1 <= window <= _LARGEST["max_seq_len"]:
        return f"sliding_window is {window}, which cannot be (1 to {_LARGEST['max_seq_len']}, or none)"
    return _fault_in_scaling(config)


def _fault_in_scaling(config: ModelConfig) -> str | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    if not 0 < scaling.factor < _LARGEST_NUMBER:
        return f"the rope scaling factor is {scaling.factor}, which cannot be (above 0)"
    if not 1 <= scaling.original_max_seq_len <= _LARGEST["max_seq_len"]:
        return (
            f"rope scaling stretches a context of {scaling.original_max_seq_len}, which cannot be (1 or more)"
        )
    if isinstance(scaling, YarnScaling):
        return _fault_in_yarn(scaling, config.rope_theta)
    if not 0 < scaling.low_freq_factor < scaling.high_freq_factor < _LARGEST_NUMBER:
        return (
            f"rope scaling needs 0 < low_freq_factor < high_freq_factor, not {scaling.low_freq_factor} "
            f"and {scaling.high_freq_factor}"
        )
    return None


def _fault_in_yarn(scaling: YarnScaling, theta: float) -> str | None:
    if not 0 < scaling.beta_slow <= scaling.beta_fast < _LARGEST_NUMBER:
        return f"YaRN needs 0 < beta_slow <= beta_fast, not {scaling.beta_slow} and {scaling.beta_fast}"
    if not 0 < scaling.attention_factor < _LARGEST_NUMBER:
        return f"YaRN's attention_factor is {scaling.attention_factor}, which cannot be (above 0)"
    if theta <= 1:
        return f"rope_theta is {theta}, which cannot be with YaRN (above 1)"
    return None
