"""The importance of weights: kept beside a directory, read with it, and what it changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import Importance, importance_file, open_checkpoint, write_importance
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError
from dllama.kernels import oracle
from support.local_cluster import GOLDENS

NAME = "layers.0.down"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS / "llama-gqa", tmp_path / "model"))


def some_importance(directory: Path) -> Importance:
    rng = np.random.default_rng(3)
    tensors = open_checkpoint(directory).tensors.values()
    return {
        tensor.name: np.exp(2 * rng.standard_normal(tensor.n_cols)).astype(np.float32)
        for tensor in tensors
        if not tensor.is_vector and tensor.name != "embedding"
    }


def test_what_is_written_is_read_with_the_directory(directory: Path) -> None:
    assert open_checkpoint(directory).importance == {}
    importance = some_importance(directory)
    write_importance(importance_file(directory), importance)
    read = open_checkpoint(directory).importance
    assert read.keys() == importance.keys()
    for name, values in importance.items():
        np.testing.assert_array_equal(read[name], values)


def test_what_matters_more_is_lost_less(directory: Path) -> None:
    exact = open_checkpoint(directory, ElementType.F32)
    tensor = exact.tensors[NAME]
    whole = (0, tensor.n_rows), (0, tensor.n_cols)
    wanted = exact.read(NAME, *whole).view(np.float32)
    importance = some_importance(directory)[NAME]

    def lost() -> float:
        blocks = open_checkpoint(directory, ElementType.Q40).read(NAME, *whole)
        values = oracle.decode(ElementType.Q40, blocks, tensor.n_cols)
        return float((importance * np.square(values - wanted, dtype=np.float64)).sum())

    without = lost()
    write_importance(importance_file(directory), {NAME: importance})
    assert lost() < 0.9 * without


def test_a_part_is_the_part_of_the_whole(directory: Path) -> None:
    """Columns have their own importance wherever reading begins."""
    write_importance(importance_file(directory), some_importance(directory))
    checkpoint = open_checkpoint(directory, ElementType.Q40)
    tensor = checkpoint.tensors[NAME]
    whole = checkpoint.read(NAME, (0, tensor.n_rows), (0, tensor.n_cols))
    part = checkpoint.read(NAME, (1, 5), (32, tensor.n_cols))
    np.testing.assert_array_equal(part, whole[1:5, 18:])


@pytest.mark.parametrize(
    "fault", ["another length", "another type", "not finite", "negative", "cut short", "no header", "empty"]
)
def test_a_damaged_file_is_named(directory: Path, fault: str) -> None:
    path = importance_file(directory)
    importance = dict(some_importance(directory))
    if fault == "another length":
        importance[NAME] = importance[NAME][:-1]
    elif fault == "not finite":
        importance[NAME][0] = np.nan
    elif fault == "negative":
        importance[NAME][0] = -1
    write_importance(path, importance)
    if fault == "another type":
        path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
    if fault == "cut short":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "no header":
        path.write_bytes(b"{}")
    elif fault == "empty":
        path.write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"dllama-importance\.safetensors: .*delete it"):
        open_checkpoint(directory)
    assert open_checkpoint(directory, with_importance=False).importance == {}


def test_what_is_not_rounded_needs_no_importance(directory: Path) -> None:
    """A damaged file does no harm there."""
    importance_file(directory).write_bytes(b"{}")
    assert open_checkpoint(directory, ElementType.F32).importance == {}


def test_names_that_the_model_does_not_have_are_passed_over(directory: Path) -> None:
    write_importance(importance_file(directory), {"other": np.ones(3, np.float32)})
    assert open_checkpoint(directory).importance == {}
