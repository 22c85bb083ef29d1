"""What a family is: how its configs are read, and how its tensors are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

from dllama.families.gguf_names import GgufNames
from dllama.families.keys import Keys
from dllama.families.stored_parts import Fused, StoredPart
from dllama.model import Layer, ModelConfig

_USUAL_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embedding": "model.embed_tokens.weight",
        "q": "model.layers.{layer}.self_attn.q_proj.weight",
        "k": "model.layers.{layer}.self_attn.k_proj.weight",
        "v": "model.layers.{layer}.self_attn.v_proj.weight",
        "o": "model.layers.{layer}.self_attn.o_proj.weight",
        "q_bias": "model.layers.{layer}.self_attn.q_proj.bias",
        "k_bias": "model.layers.{layer}.self_attn.k_proj.bias",
        "v_bias": "model.layers.{layer}.self_attn.v_proj.bias",
        "o_bias": "model.layers.{layer}.self_attn.o_proj.bias",
        "q_norm": "model.layers.{layer}.self_attn.q_norm.weight",
        "k_norm": "model.layers.{layer}.self_attn.k_norm.weight",
        "gate": "model.layers.{layer}.mlp.gate_proj.weight",
        "down": "model.layers.{layer}.mlp.down_proj.weight",
        "up": "model.layers.{layer}.mlp.up_proj.weight",
        "router": "model.layers.{layer}.mlp.gate.weight",
        "experts_gate": "model.layers.{layer}.mlp.experts.{number}.gate_proj.weight",
        "experts_down": "model.layers.{layer}.mlp.experts.{number}.down_proj.weight",
        "experts_up": "model.layers.{layer}.mlp.experts.{number}.up_proj.weight",
        "shared_gate": "model.layers.{layer}.mlp.shared_expert.gate_proj.weight",
        "shared_down": "model.layers.{layer}.mlp.shared_expert.down_proj.weight",
        "shared_up": "model.layers.{layer}.mlp.shared_expert.up_proj.weight",
        "shared_out_gate": "model.layers.{layer}.mlp.shared_expert_gate.weight",
        "attention_norm": "model.layers.{layer}.input_layernorm.weight",
        "ffn_norm": "model.layers.{layer}.post_attention_layernorm.weight",
        "final_norm": "model.norm.weight",
        "attention_norm_bias": "model.layers.{layer}.input_layernorm.bias",
        "ffn_norm_bias": "model.layers.{layer}.post_attention_layernorm.bias",
        "final_norm_bias": "model.norm.bias",
        "head": "lm_head.weight",
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """`name` is `model_type` of a Hugging Face config.json."""

    name: str
    title: str
    read: Callable[[Keys], ModelConfig]
    """The config of a model by its keys, those of config.json whatever file says them. Raises ModelFileError where they
    contradict themselves, UnsupportedModelError for what dllama does not do; both name the file and the key."""
    other_names: Mapping[str, str | Fused] = dataclasses.field(default_factory=dict)
    """What its safetensors files call otherwise than most: our name of a tensor (without `layers.N.`) to theirs."""

    part_of: Callable[[Layer, str], StoredPart | None] = lambda layer, name: None
    """Of which larger tensor of safetensors files a layer's tensor (its name without `layers.N.`) may be a part; it
    counts where the files have it."""
    stores_pairs: bool = False
    """Whether its safetensors files have rows of q and k as adjacent pairs already."""
    norms_add_one: bool = False
    """Its safetensors files have of each norm what is to be added to 1; GGUF files have the sum."""
    plain_norms: tuple[str, ...] = ()
    """Those, without `layers.N.`, that are stored as they are all the same."""
    ties_head: bool = False
    """Whether the head is the embedding where config.json does not say (tie_word_embeddings)."""
    gguf: GgufNames | None = None
    """What GGUF files call it; None: it is not read from them."""

    predicts_further: bool = False
    """Whether its files may have layers behind the last that predict further tokens, which are not used."""

    def hf_name(self, name: str, number: int = 0) -> str:
        """The Hugging Face name of our `name`: `layers.3.q` is `model.layers.3.self_attn.q_proj.weight`. `number`:
        which matrix of a stack, where each is stored by itself."""
        layer, part = _parts_of(name)
        place = self.other_names[part] if part in self.other_names else _USUAL_NAMES[part]
        return (place.name if isinstance(place, Fused) else place).format(layer=layer, number=number)

    def fused(self, name: str) -> Fused | None:
        """Where our `name` is stored with others; None: by itself."""
        place = self.other_names.get(_parts_of(name)[1])
        return place if isinstance(place, Fused) else None


def _parts_of(name: str) -> tuple[str, str]:
    """The number of a tensor's layer, or "" outside of layers, and its name there."""
    prefix, _, rest = name.partition(".")
    layer, _, part = rest.partition(".") if prefix == "layers" else ("", "", name)
    return layer, part
