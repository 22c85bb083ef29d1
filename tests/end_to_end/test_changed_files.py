"""A model's file is overwritten or cut while it is used: one line names it, and workers serve the next root."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dllama.checkpoint import convert_model, open_checkpoint
from dllama.dtypes import ElementType
from support import fake_nodes
from support.endless import endless, long_context
from support.processes import DEMO_MODEL, Running, inference, run_dllama, run_well, worker_processes


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


@pytest.fixture(scope="module")
def m_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "demo_q40.m"
    endless_model = Path(str(long_context()[1]))
    with contextlib.closing(open_checkpoint(endless_model, ElementType.Q40)) as checkpoint:
        convert_model(checkpoint, path)
    return path


@pytest.fixture
def own_file(m_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(m_file, tmp_path))


def assert_names(line: str, path: Path) -> None:
    assert line.startswith(f"dllama: {path}: was changed while it was in use"), line


@pytest.mark.parametrize("change", [cut, overwrite])
def test_while_text_is_written(change: Callable[[Path], None], own_file: Path) -> None:
    arguments = ("--model", own_file, "--tokenizer", DEMO_MODEL)
    with worker_processes(1) as (worker,):
        with Running(*endless(*arguments, workers=[worker.address])) as root:
            root.out.wait_for("Pred", 3)
            root.pause()
            change(own_file)
            root.go_on()
            done = root.finish()
        assert done.code == 1
        assert_names(done.error_line, own_file)
        worker.wait_until_free(1)
        run_well(*inference(workers=[worker.address], steps=8))


@pytest.mark.parametrize("change", [cut, overwrite])
def test_while_it_is_loaded(change: Callable[[Path], None], own_file: Path) -> None:
    """Whether its pages are gone when they are read, or when they are sent, or all had been sent before."""
    acts = partial(fake_nodes.acts_while_loading, act=partial(change, own_file))
    with fake_nodes.server(acts) as address:
        done = run_dllama(*inference("--model", own_file, "--tokenizer", DEMO_MODEL, workers=[address]))
    assert done.code == 1
    assert_names(done.error_line, own_file)
