"""A small sound model file, to use and to spoil."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from dllama.checkpoint import convert_model, open_checkpoint
from dllama.dtypes import ElementType
from support.processes import DEMO_MODEL


@pytest.fixture(scope="session")
def m_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as a `.m` file of float32."""
    path = tmp_path_factory.mktemp("model") / "demo_f32.m"
    with contextlib.closing(open_checkpoint(DEMO_MODEL, ElementType.F32)) as checkpoint:
        convert_model(checkpoint, path)
    return path
