"""Where `make real-models` puts real models. Tests that need one are skipped where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / ".real-models"
SMOLLM2 = _FOLDER / "SmolLM2-135M-Instruct"
SMOLLM2_GGUF = _FOLDER / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3_GGUF = _FOLDER / "gemma-3-270m-q4_k_m.gguf"


def _needs(path: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not path.is_file(), reason=f"the real model {path.name} is not here: make real-models"
    )


needs_smollm2 = _needs(SMOLLM2 / "model.safetensors")
needs_smollm2_gguf = _needs(SMOLLM2_GGUF)
needs_gemma3_gguf = _needs(GEMMA3_GGUF)
