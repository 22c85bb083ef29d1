"""What people are told while it is found out which weights matter."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dllama.checkpoint import open_checkpoint
from dllama.cli.importance import importance_for
from dllama.dtypes import ElementType

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


def test_what_is_collected_of_experts_is_kept_and_found_again(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(GOLDENS / "qwen3-moe", directory)
    bytes_alone = Tokenizer(
        models.BPE({piece: number for number, piece in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    bytes_alone.save(str(directory / "tokenizer.json"))
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a small dog.")
    with contextlib.closing(open_checkpoint(directory, ElementType.Q40)) as checkpoint:
        importance = importance_for(checkpoint, str(text))
        shape = checkpoint.tensors["layers.0.experts_down"].shape
    assert "layers.0.router" not in importance
    assert importance["layers.0.experts_down"].shape == (shape[0], shape[2])
    with contextlib.closing(open_checkpoint(directory, ElementType.Q40)) as checkpoint:
        assert checkpoint.importance.keys() == importance.keys()
        for name, values in importance.items():
            np.testing.assert_array_equal(checkpoint.importance[name], values)
