"""The families that dllama knows. To add one whose kinds of layers are already there: one file, and its name here. Of
those whose GGUF files are called the same, the first here reads them (families/gguf_names.py)."""

from __future__ import annotations

from dllama.families.deepseek_v3 import DEEPSEEK_V3
from dllama.families.family import Family
from dllama.families.gemma2 import GEMMA2
from dllama.families.gemma3 import GEMMA3
from dllama.families.glm4 import GLM4
from dllama.families.glm4_moe import GLM4_MOE
from dllama.families.glm4_moe_lite import GLM4_MOE_LITE
from dllama.families.gpt_oss import GPT_OSS
from dllama.families.granite import GRANITE
from dllama.families.llama import LLAMA
from dllama.families.ministral3 import MINISTRAL3
from dllama.families.mistral import MISTRAL
from dllama.families.mixtral import MIXTRAL
from dllama.families.phi3 import PHI3
from dllama.families.qwen2 import QWEN2
from dllama.families.qwen2_moe import QWEN2_MOE
from dllama.families.qwen3 import QWEN3
from dllama.families.qwen3_5 import QWEN3_5
from dllama.families.qwen3_5_moe import QWEN3_5_MOE
from dllama.families.qwen3_moe import QWEN3_MOE
from dllama.families.qwen3_next import QWEN3_NEXT
from dllama.families.smollm3 import SMOLLM3
from dllama.families.stablelm import STABLELM

_BY_NAME = {
    family.name: family
    for family in (
        LLAMA,
        MISTRAL,
        MINISTRAL3,
        MIXTRAL,
        QWEN2,
        QWEN2_MOE,
        QWEN3,
        QWEN3_MOE,
        QWEN3_NEXT,
        QWEN3_5,
        QWEN3_5_MOE,
        GEMMA2,
        GEMMA3,
        PHI3,
        SMOLLM3,
        GRANITE,
        STABLELM,
        GLM4,
        GLM4_MOE,
        DEEPSEEK_V3,
        GLM4_MOE_LITE,
        GPT_OSS,
    )
}


_ALIASES = {"kimi_k2": "deepseek_v3"}
"""Model types that are another family with other numbers."""


def known_families() -> list[str]:
    """Names of all families, as `model_type` spells them."""
    return list(_BY_NAME)


def family_named(name: str) -> Family:
    """Raises KeyError when it is not known."""
    return _BY_NAME[_ALIASES.get(name, name)]


def is_known_family(name: str) -> bool:
    """Whether there is a family for this model_type."""
    return _ALIASES.get(name, name) in _BY_NAME
