"""params.json of Meta (github.com/meta-llama/llama-models) or Mistral (mistral-common) becomes a ModelConfig.

Meta's does not say how long texts may be, nor by how much Llama 3.1's rope is scaled: these are those of the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllama.checkpoint.hf.config import HfModel, model_from_hf
from dllama.errors import ModelFileError
from dllama.families import Keys
from dllama.formats.plain_files import read_json_object

_KNOWN = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "norm_eps", "rope_theta",
    "multiple_of", "ffn_dim_multiplier", "use_scaled_rope", "rope_scaling_factor", "max_seq_len",
    "max_position_embeddings", "sliding_window", "tied_embeddings", "causal", "vision_encoder", "max_batch_size",
    "model_parallel_size",
}  # fmt: skip
_SMALL_MODELS = (2048, 3072)
"""The widths of Llama 3.2's 1B and 3B, whose rope is scaled by 32, not 8."""


def read_params(path: Path, sizes: Mapping[str, int], *, is_tied: bool) -> HfModel:
    """The model that the params.json at `path` describes. `sizes`: what its tensors say, by config.json's names;
    `is_tied`: there is no head among them. Raises ModelFileError or UnsupportedModelError, naming file and key."""
    said = Keys(read_json_object(path, ModelFileError), path)
    for key, value in said.values.items():
        if key not in _KNOWN and value:
            raise said.unsupported(f"{key} is not supported; without it the answers would be wrong")
    is_mistral, n_heads = "hidden_dim" in said.values, said.whole("n_heads")
    values: dict[str, Any] = {
        "model_type": "mistral" if is_mistral else "llama",
        "hidden_size": said.whole("dim"),
        "num_hidden_layers": said.whole("n_layers"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": said.whole("n_kv_heads", n_heads),
        "head_dim": said.get("head_dim", None),
        "rms_norm_eps": said.number("norm_eps", 1e-5),
        "rope_theta": said.number("rope_theta", 1e4),
        "tie_word_embeddings": is_tied,
        **sizes,
    }
    if is_mistral:
        values["sliding_window"] = said.get("sliding_window", None)
    scaling = _scaling(said)
    if scaling is not None:
        values["rope_scaling"] = scaling
    values["max_position_embeddings"] = said.whole(
        "max_position_embeddings", said.whole("max_seq_len", _longest_text(values, is_mistral=is_mistral))
    )
    return model_from_hf(values, path)


def _scaling(said: Keys) -> dict[str, Any] | None:
    if not said.flag("use_scaled_rope"):
        return None
    usual = 32.0 if said.whole("dim") in _SMALL_MODELS else 8.0
    return {
        "rope_type": "llama3",
        "factor": said.number("rope_scaling_factor", usual),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _longest_text(values: Mapping[str, Any], *, is_mistral: bool) -> int:
    """Of Mistral 7B, Llama 3.1 and later, Llama 3, Code Llama, Llama 2, and Llama, whose epsilon is another."""
    if is_mistral:
        return 32768
    if "rope_scaling" in values:
        return 131072
    if values["vocab_size"] >= 128000:
        return 8192
    if values["rope_theta"] >= 1e6:
        return 16384
    return 4096 if values["rms_norm_eps"] == 1e-5 else 2048
