"""What can be converted, and what is said of the rest before anybody waits."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from dllama.checkpoint import (
    FileKind,
    convert_model,
    convert_to_gguf,
    file_kind,
    is_convertible,
    open_checkpoint,
)
from dllama.dtypes import ElementType
from dllama.errors import UnsupportedModelError
from support.local_cluster import GOLDENS, WITH_ROWS_OF_NO_BLOCKS

WHOLE_BLOCKS = [path for path in sorted(GOLDENS.iterdir()) if path.name not in WITH_ROWS_OF_NO_BLOCKS]
"""Rows of the others are refused when they are opened."""
IQ4NL, Q40 = ElementType.IQ4NL, ElementType.Q40


@pytest.mark.parametrize(
    ("name", "weight_type", "what"),
    [
        ("llama-gelu", IQ4NL, "a llama model like this one is not written into GGUF files; convert to q40"),
        ("qwen2-yarn", IQ4NL, "a qwen2 model like this one is not written into GGUF files; convert to q40"),
        ("qwen3-moe-mixed", IQ4NL, "a qwen3_moe model like this one is not .*; run it as it is"),
        ("qwen3-moe-mixed", Q40, "a qwen3_moe model like this one is not .*; run it as it is"),
    ],
)
def test_what_is_not_is_told_with_a_way_out_that_is_one(
    name: str, weight_type: ElementType, what: str
) -> None:
    with contextlib.closing(open_checkpoint(GOLDENS / name, ElementType.F32)) as checkpoint:
        assert not is_convertible(checkpoint, weight_type)
        with pytest.raises(UnsupportedModelError, match=f"{name}: {what}"):
            file_kind(checkpoint, weight_type)
        if "q40" in what:
            assert file_kind(checkpoint, Q40) is FileKind.M


@pytest.mark.parametrize("weight_type", [IQ4NL, Q40], ids=str)
@pytest.mark.parametrize("path", WHOLE_BLOCKS, ids=lambda path: path.name)
def test_what_is_said_to_be_convertible_is(path: Path, weight_type: ElementType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with contextlib.closing(open_checkpoint(path, ElementType.F32)) as checkpoint:
        if not is_convertible(checkpoint, weight_type):
            with pytest.raises(UnsupportedModelError):
                convert_to_gguf(checkpoint, out, "some", {})
            assert not out.exists()
            return
        if file_kind(checkpoint, weight_type) is FileKind.GGUF:
            convert_to_gguf(checkpoint, out, "some", {})
        else:
            convert_model(checkpoint, out)
        assert out.exists()
