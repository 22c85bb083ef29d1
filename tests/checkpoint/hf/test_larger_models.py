"""A language model that is a part of one that sees: its config is nested, its tensors have longer names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import UnsupportedModelError
from dllama.formats.safetensors import SafetensorsFile

GOLDEN = Path(__file__).resolve().parents[2] / "goldens" / "llama-head-dim"
PREFIXES = {
    "newer": ("model.language_model.", "lm_head."),
    "older": ("language_model.model.", "language_model.lm_head."),
}
EYES = {"newer": "model.vision_tower.patch.weight", "older": "vision_tower.patch.weight"}


def larger_model(folder: Path, spelling: str, **more: np.ndarray) -> Path:
    """The golden's model as the text part of another."""
    of_model, of_head = PREFIXES[spelling]
    file = SafetensorsFile(GOLDEN / "model.safetensors")
    tensors = {}
    for name, tensor in file.tensors.items():
        longer = name.replace("model.", of_model, 1).replace("lm_head.", of_head, 1)
        tensors[longer] = np.frombuffer(file.bytes_of(name).tobytes(), np.float32).reshape(tensor.shape)
    save_file(tensors | {EYES[spelling]: np.ones((3, 3), np.float32)} | more, folder / "model.safetensors")
    text = json.loads((GOLDEN / "config.json").read_text())
    config = {"model_type": "something_that_sees", "text_config": text, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("spelling", PREFIXES)
def test_it_is_the_same_model(spelling: str, tmp_path: Path) -> None:
    alone = open_checkpoint(GOLDEN, ElementType.F32)
    part = open_checkpoint(larger_model(tmp_path, spelling), ElementType.F32)
    assert part.config == alone.config
    for name, tensor in alone.tensors.items():
        whole = (0, tensor.n_rows), (0, tensor.n_cols)
        np.testing.assert_array_equal(part.read(name, *whole), alone.read(name, *whole), err_msg=name)


@pytest.mark.parametrize("spelling", PREFIXES)
def test_what_has_no_place_in_the_text_model_is_refused(spelling: str, tmp_path: Path) -> None:
    name = PREFIXES[spelling][0] + "layers.0.self_attn.sinks"
    folder = larger_model(tmp_path, spelling, **{name: np.ones(4, np.float32)})
    with pytest.raises(UnsupportedModelError, match="has no place in a llama model"):
        open_checkpoint(folder, ElementType.F32)
