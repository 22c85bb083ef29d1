"""Where `make real-models` puts a real model. Tests that need it are skipped where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

SMOLLM2 = Path(__file__).parents[2] / ".real-models" / "SmolLM2-135M-Instruct"

needs_smollm2 = pytest.mark.skipif(
    not (SMOLLM2 / "model.safetensors").is_file(), reason="the real model is not here: make real-models"
)
