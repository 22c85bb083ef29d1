"""Gemma 3's metadata says less than its config.json: what llama.cpp takes for granted is said for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dllama.checkpoint.gguf.config import read_gguf_config
from dllama.formats.gguf import GgmlType, GgufFile, NewTensor, write_gguf
from dllama.model import ModelConfig, RopeScaling

KEYS = {
    "context_length": 32768,
    "embedding_length": 640,
    "block_count": 12,
    "feed_forward_length": 2048,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 512,
    "rope.freq_base": 1e6,
}


def config_of(path: Path, **changes: Any) -> ModelConfig:
    keys = {"general.architecture": "gemma3"}
    keys |= {f"gemma3.{key.replace('__', '.')}": value for key, value in (KEYS | changes).items()}
    with write_gguf(path, keys, [NewTensor("token_embd.weight", (8, 32), GgmlType.F32)]) as writer:
        writer.write("token_embd.weight", np.zeros(8 * 32 * 4, np.uint8))
    return read_gguf_config(GgufFile(path)).config


def test_each_sixth_layer_sees_all_and_has_the_rope_of_the_file(tmp_path: Path) -> None:
    scaling = {"rope__scaling__type": "linear", "rope__scaling__factor": 8.0}
    config = config_of(tmp_path / "model.gguf", **scaling)
    mixers = [config.layer(index).mixer for index in range(12)]
    assert [mixer.window for mixer in mixers] == ([512] * 5 + [None]) * 2
    local, full = mixers[0].rope, mixers[5].rope
    assert local is not None
    assert full is not None
    assert (local.theta, local.scaling) == (1e4, None)
    assert full.theta == 1e6
    assert isinstance(full.scaling, RopeScaling)
    assert full.scaling.factor == 8
    assert (config.norm_eps, config.embedding_scale, config.vocab_size) == (1e-6, 640**0.5, 8)
    assert all(kind.norms_after and kind.mixer.qk_norm and kind.mixer.scale is None for kind in config.kinds)
    assert config.kinds[0].feed_forward.activation == "gelu"


def test_a_pattern_and_a_local_rope_of_its_own(tmp_path: Path) -> None:
    changes = {"attention__sliding_window_pattern": 4, "rope__freq_base_swa": 2e4}
    config = config_of(tmp_path / "model.gguf", **changes)
    assert [config.layer(index).mixer.window for index in range(4)] == [512, 512, 512, None]
    rope = config.layer(0).mixer.rope
    assert rope is not None
    assert rope.theta == 2e4


@pytest.mark.parametrize(("n_layers", "scale"), [(34, None), (62, (5376 / 32) ** -0.5)])
def test_the_largest_model_has_another_scale(n_layers: int, scale: float | None, tmp_path: Path) -> None:
    sizes = {"block_count": n_layers, "embedding_length": 5376, "attention__head_count": 32}
    heads = {"attention__head_count_kv": 16, "attention__key_length": 128, "attention__value_length": 128}
    config = config_of(tmp_path / "model.gguf", **sizes, **heads)
    assert config.kinds[0].mixer.scale == (None if scale is None else pytest.approx(scale))
