"""Files of PyTorch are read without PyTorch, and nothing in them is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.torch_file import TorchFile
from dllama.formats.torch_pickle import read_state_dict

SAVED = Path(__file__).parent / "saved_by_torch"
NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_a_dict_that_torch_saved() -> None:
    file = TorchFile(SAVED / "dict.pth")
    tensor = file.tensors["a.weight"]
    assert (tensor.dtype, tensor.shape) == ("BF16", (3, 4))
    bits = file.bytes_of("a.weight").view(np.uint16).astype(np.uint32) << 16
    np.testing.assert_array_equal(bits.view(np.float32), NUMBERS.reshape(-1))
    np.testing.assert_array_equal(file.bytes_of("rope.freqs").view(np.float32), np.ones(3, np.float32))


def test_an_ordered_dict_with_a_parameter_and_a_part() -> None:
    file = TorchFile(SAVED / "ordered.pth")
    np.testing.assert_array_equal(
        file.bytes_of("half").view(np.float16), NUMBERS.reshape(-1).astype(np.float16)
    )
    assert file.tensors["part"].shape == (2, 4)
    np.testing.assert_array_equal(file.bytes_of("part").view(np.float32), NUMBERS[1:].reshape(-1))


def test_nothing_is_run(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"runs\.pth: its pickle asks for posix\.system, .* not run"
    ):
        TorchFile(SAVED / "runs.pth")
    assert "unpickled" not in capfd.readouterr().out


def test_what_is_stored_transposed_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="x is stored transposed"):
        TorchFile(SAVED / "transposed.pth")


@pytest.mark.parametrize("what", [[1, 2], {"a": [1]}, {"a": {1, 2}}, b"bytes", {"a": object()}])
def test_other_pickles_are_refused(what: object) -> None:
    with pytest.raises(ValueError, match=r"its pickle|it holds no dict"):
        read_state_dict(pickle.dumps(what, protocol=2))


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9, 0.99])
def test_truncated(at: float, tmp_path: Path) -> None:
    whole = (SAVED / "dict.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(at * len(whole))])
    with pytest.raises(ModelFileError, match=r"cut\.pth: is damaged or truncated"):
        TorchFile(path)


def test_every_byte_of_a_pickle_may_be_wrong() -> None:
    with zipfile.ZipFile(SAVED / "ordered.pth") as archive:
        whole = archive.read("ordered/data.pkl")
    for at in range(len(whole)):
        for changed in (0, 40, 82, 113, 255):
            try:
                read_state_dict(whole[:at] + bytes([changed]) + whole[at + 1 :])
            except ValueError:
                continue


def test_storages_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "less.pth"
    with zipfile.ZipFile(SAVED / "dict.pth") as archive, zipfile.ZipFile(path, "w") as less:
        for name in archive.namelist():
            if not name.endswith("data/0"):
                less.writestr(name, archive.read(name))
    with pytest.raises(ModelFileError, match=r"lacks the elements of a\.weight"):
        TorchFile(path)
