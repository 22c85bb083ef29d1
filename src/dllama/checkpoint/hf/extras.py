"""Tensors of a Hugging Face directory that are no weights of the decoder: which may be left aside, and which not."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

# Tables that older programs stored, the state of other libraries, and scales of a KV cache in 8 bits.
_BOOKKEEPING = re.compile(
    r"(.*\.)?(rotary_emb\.\w+|inv_freq|cos_cached|sin_cached|attn\.bias|masked_bias|causal_mask|position_ids"
    r"|_extra_state|[kv]_scale|kv_scale)"
)
_DECODER = ("model.", "lm_head.", "base_model.", "language_model.")
_OTHER_SENSES = re.compile(
    r"(model\.)?(vision_tower|visual|vision_model|audio_tower|multi_modal_projector)\..*"
)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,9})\.")
_LONGER = (
    ("model.", "model.language_model."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
"""How names begin, and how they begin where the language model is a part of a larger one; two spellings."""

_SHOWN = 3


def is_bookkeeping(name: str) -> bool:
    """Whether the tensor is of no consequence whatever is in it."""
    return _BOOKKEEPING.fullmatch(name) is not None


def is_in_decoder(name: str) -> bool:
    """Whether the tensor belongs to what computes logits. Heads of other uses do not (v_head, score, classifier), nor
    what sees and hears."""
    return name.startswith(_DECODER) and _OTHER_SENSES.fullmatch(name) is None


def layer_of(name: str) -> int:
    """The number of the layer that the tensor is part of, or -1."""
    found = _LAYER.search(name)
    return -1 if found is None else int(found[1])


def name_in_files(name: str, names: Collection[str]) -> str:
    """What a tensor of a language model is called among `names`, where it may be a part of a larger model."""
    if name not in names:
        for own, longer in _LONGER:
            if name.startswith(own) and longer + name.removeprefix(own) in names:
                return longer + name.removeprefix(own)
    return name


def unused_sentence(names: Sequence[str]) -> str:
    """What a user is told of tensors that are left aside."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}: no part of the text model, not used"
