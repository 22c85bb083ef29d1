"""What can be converted, and what is said of the rest before anybody waits."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from dllama.checkpoint import (
    check_convertible,
    convert_model,
    convert_to_gguf,
    is_convertible,
    open_checkpoint,
)
from dllama.dtypes import ElementType
from dllama.errors import UnsupportedModelError

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
WHOLE_BLOCKS = [path for path in sorted(GOLDENS.iterdir()) if not path.name.endswith("-odd")]
"""Rows of the others are refused when they are opened."""
IQ4NL, Q40 = ElementType.IQ4NL, ElementType.Q40


@pytest.mark.parametrize(
    ("name", "weight_type", "what"),
    [
        ("llama-gelu", IQ4NL, "a llama model like this one is not written into GGUF files; convert to q40"),
        ("qwen2-yarn", IQ4NL, "a qwen2 model like this one is not written into GGUF files; convert to q40"),
        ("qwen3-moe-mixed", IQ4NL, "a qwen3_moe model like this one is not .*; run it as it is"),
        ("gemma3-two-kinds", IQ4NL, "a gemma3_text model like this one is not .*; run it as it is"),
        (
            "qwen3-moe-mixed",
            Q40,
            "the .m format has no keys for a qwen3_moe model like this one; run it as it",
        ),
        (
            "gemma3-two-kinds",
            Q40,
            "the .m format has no keys for a gemma3_text model like this one; run it as",
        ),
    ],
)
def test_what_is_not_is_told_with_a_way_out_that_is_one(
    name: str, weight_type: ElementType, what: str
) -> None:
    with contextlib.closing(open_checkpoint(GOLDENS / name, ElementType.F32)) as checkpoint:
        assert not is_convertible(checkpoint, weight_type)
        with pytest.raises(UnsupportedModelError, match=f"{name}: {what}"):
            check_convertible(checkpoint, weight_type)
        if "q40" in what:
            check_convertible(checkpoint, Q40)


@pytest.mark.parametrize("weight_type", [IQ4NL, Q40], ids=str)
@pytest.mark.parametrize("path", WHOLE_BLOCKS, ids=lambda path: path.name)
def test_what_is_said_to_be_convertible_is(path: Path, weight_type: ElementType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with contextlib.closing(open_checkpoint(path, ElementType.F32)) as checkpoint:
        expected = contextlib.nullcontext()
        if not is_convertible(checkpoint, weight_type):
            expected = pytest.raises(UnsupportedModelError)
        with expected:
            if weight_type is IQ4NL:
                convert_to_gguf(checkpoint, out, "some", {})
            else:
                convert_model(checkpoint, out)
        assert out.exists() == is_convertible(checkpoint, weight_type)
