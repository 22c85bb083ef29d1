"""What people are told while it is found out which weights matter."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dllama.checkpoint import open_checkpoint
from dllama.cli.importance import importance_for
from dllama.dtypes import ElementType

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


@pytest.mark.parametrize(("golden", "has_experts"), [("llama-gqa", False), ("qwen3-moe", True)])
def test_experts_are_said_to_be_left_out(
    golden: str, has_experts: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(GOLDENS / golden, directory)
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
    assert "layers.0.q" in importance
    assert "layers.0.router" not in importance
    assert not has_experts or not any(name.endswith(("gate", "up", "down")) for name in importance)
    assert ("experts are left out" in capsys.readouterr().err) is has_experts
