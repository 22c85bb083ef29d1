"""What people are told while it is found out which weights matter."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dllama.checkpoint import open_checkpoint
from dllama.cli.importance import importance_for
from dllama.cli.session import blind_note
from dllama.dtypes import ElementType
from support.processes import run_well

IQ4NL = ElementType.IQ4NL
GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


@pytest.mark.parametrize("golden", ["glm4-moe", "qwen3-next", "gemma3-two-kinds", "stablelm"])
def test_what_no_file_holds_has_importance_too(golden: str, tmp_path: Path) -> None:
    """It is said how it is found, and is used once it is."""
    directory = tmp_path / "model"
    shutil.copytree(GOLDENS / golden, directory)
    bytes_alone().save(str(directory / "tokenizer.json"))
    with contextlib.closing(open_checkpoint(directory)) as checkpoint:
        said = blind_note(checkpoint, None)
        command = f"hf {directory} iq4nl NAME" if golden == "stablelm" else f"importance {directory}`"
        assert said is not None
        assert f"`dllama convert {command}" in said
    assert "kept in" in run_well("convert", "importance", directory).err
    with contextlib.closing(open_checkpoint(directory)) as checkpoint:
        assert blind_note(checkpoint, None) is None
        assert set(checkpoint.importance) >= {
            name for name, t in checkpoint.tensors.items() if t.dtype is IQ4NL
        }
    assert "found before" in run_well("convert", "importance", directory).err


def bytes_alone() -> Tokenizer:
    """With a token for each byte."""
    tokenizer = Tokenizer(
        models.BPE({piece: number for number, piece in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_what_is_collected_of_experts_is_kept_and_found_again(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(GOLDENS / "qwen3-moe", directory)
    bytes_alone().save(str(directory / "tokenizer.json"))
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
