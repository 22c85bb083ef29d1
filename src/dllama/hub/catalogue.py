"""Names for models that people run, so that one word is enough to begin with.

Sources and sizes are those of the repositories' pages on the Hub (2026); the number of parameters is the models' own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownModel:
    """`source`: ORG/REPO, or ORG/REPO:CHOICE. `shape`: the name of its dimensions (bench/shapes.py), from which what
    nodes need of memory is worked out. `gigabytes`: what is downloaded."""

    source: str
    shape: str
    gigabytes: float


def _known(source: str, shape: str, gigabytes: float) -> KnownModel:
    return KnownModel(source=source, shape=shape, gigabytes=gigabytes)


_DISTRIBUTED = "b4rtaz/{}-Distributed-Llama"

CATALOGUE: Mapping[str, KnownModel] = MappingProxyType(
    {
        "smollm2-135m": _known("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m", 0.27),
        "smollm2-1.7b": _known("HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M", "smollm2-1.7b", 1.06),
        "llama-3.2-1b": _known("bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "llama-3.2-1b", 0.81),
        "llama-3.2-3b": _known("bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "llama-3.2-3b", 2.02),
        "llama-3.1-8b": _known("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "llama-3.1-8b", 4.92),
        "llama-3.3-70b": _known("bartowski/Llama-3.3-70B-Instruct-GGUF:Q4_K_M", "llama-3.1-70b", 42.5),
        "mistral-7b": _known("bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q4_K_M", "mistral-7b", 4.37),
        "qwen3-0.6b": _known("Qwen/Qwen3-0.6B-GGUF:Q8_0", "qwen3-0.6b", 0.64),
        "qwen3-4b": _known("Qwen/Qwen3-4B-GGUF:Q4_K_M", "qwen3-4b", 2.5),
        "qwen3-8b": _known("Qwen/Qwen3-8B-GGUF:Q4_K_M", "qwen3-8b", 5.03),
        "qwen3-14b": _known("Qwen/Qwen3-14B-GGUF:Q4_K_M", "qwen3-14b", 9.0),
        "qwen3-32b": _known("Qwen/Qwen3-32B-GGUF:Q4_K_M", "qwen3-32b", 19.8),
        "qwen3-30b-a3b": _known("Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M", "qwen3-30b-a3b", 18.6),
        "qwen3-235b-a22b": _known("Qwen/Qwen3-235B-A22B-GGUF:Q4_K_M", "qwen3-235b-a22b", 142.0),
        "gpt-oss-20b": _known("ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b", 12.1),
        "gpt-oss-120b": _known("ggml-org/gpt-oss-120b-GGUF", "gpt-oss-120b", 63.4),
        "gemma-3-1b": _known("ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", "gemma-3-1b", 0.81),
        "gemma-3-4b": _known("ggml-org/gemma-3-4b-it-GGUF:Q4_K_M", "gemma-3-4b", 2.49),
        "gemma-3-12b": _known("ggml-org/gemma-3-12b-it-GGUF:Q4_K_M", "gemma-3-12b", 7.3),
        "gemma-3-27b": _known("ggml-org/gemma-3-27b-it-GGUF:Q4_K_M", "gemma-3-27b", 16.5),
        "llama3_2_1b_instruct_q40": _known(
            _DISTRIBUTED.format("Llama-3_2-1B-Q40-Instruct"), "llama-3.2-1b", 1.7
        ),
        "llama3_2_3b_instruct_q40": _known(
            _DISTRIBUTED.format("Llama-3_2-3B-Q40-Instruct"), "llama-3.2-3b", 3.4
        ),
        "llama3_1_8b_instruct_q40": _known(
            _DISTRIBUTED.format("Llama-3_1-8B-Q40-Instruct"), "llama-3.1-8b", 6.32
        ),
        "llama3_3_70b_instruct_q40": _known(
            _DISTRIBUTED.format("Llama-3_3-70B-Q40-Instruct"), "llama-3.1-70b", 40.0
        ),
        "llama3_1_405b_instruct_q40": _known(
            _DISTRIBUTED.format("Llama-3_1-405B-Q40-Instruct"), "llama-3.1-405b", 238.0
        ),
        "qwen3_0.6b_q40": _known(_DISTRIBUTED.format("Qwen3-0.6B-Q40"), "qwen3-0.6b", 0.9),
        "qwen3_8b_q40": _known(_DISTRIBUTED.format("Qwen3-8B-Q40"), "qwen3-8b", 6.7),
        "qwen3_14b_q40": _known(_DISTRIBUTED.format("Qwen3-14B-Q40"), "qwen3-14b", 10.9),
        "qwen3_30b_a3b_q40": _known(_DISTRIBUTED.format("Qwen3-30B-A3B-Q40"), "qwen3-30b-a3b", 17.0),
    }
)
"""Those of Distributed Llama by its own names for them."""
