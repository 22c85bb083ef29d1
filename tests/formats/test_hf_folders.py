"""Folders as the Hugging Face Hub's tools leave them, and those that hold no model that is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import DllamaError, ModelFileError, TokenizerError, UnsupportedModelError, UsageError
from dllama.formats.hf_folders import missing, model_folder, model_name
from dllama.tokenizer import load_tokenizer
from support.processes import DEMO_MODEL

OLD, NEW = "0" * 40, "f" * 40


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """The demo model as the Hub's cache has it: files are links into blobs, refs/main names the snapshot."""
    folder = tmp_path / "models--people--Small-Model"
    (folder / "refs").mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs" / "main").write_text(NEW)
    for revision in (OLD, NEW):
        (folder / "snapshots" / revision).mkdir(parents=True)
    for number, file in enumerate(path for path in DEMO_MODEL.iterdir() if path.is_file()):
        shutil.copy(file, folder / "blobs" / str(number))
        (folder / "snapshots" / NEW / file.name).symlink_to(f"../../blobs/{number}")
    return folder


def test_a_model_in_the_cache_is_its_main_snapshot(cached: Path) -> None:
    assert model_folder(cached) == cached / "snapshots" / NEW
    assert open_checkpoint(cached, ElementType.F32).config.vocab_size == 2048
    assert load_tokenizer(cached).vocab_size == load_tokenizer(DEMO_MODEL).vocab_size


def test_a_cache_without_main(cached: Path) -> None:
    (cached / "refs" / "main").unlink()
    with pytest.raises(ModelFileError, match="has 2 snapshots, and refs/main names none"):
        open_checkpoint(cached, ElementType.F32)
    (cached / "snapshots" / OLD).rmdir()
    assert model_folder(cached) == cached / "snapshots" / NEW
    shutil.rmtree(cached / "snapshots" / NEW)
    with pytest.raises(ModelFileError, match="has no snapshot"):
        model_folder(cached)
    shutil.rmtree(cached / "snapshots")  # a download that has only begun
    with pytest.raises(ModelFileError, match="has no snapshot"):
        model_folder(cached)


@pytest.mark.parametrize("revision", ["../../elsewhere", "", "gone", "/"])
def test_main_may_name_snapshots_only(cached: Path, revision: str) -> None:
    (cached / "refs" / "main").write_text(revision)
    with pytest.raises(ModelFileError, match="refs/main names none"):
        model_folder(cached)


def test_a_folder_that_is_no_cache_is_itself(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    assert model_folder(tmp_path) == tmp_path
    assert model_folder(DEMO_MODEL) == DEMO_MODEL


def test_what_a_model_is_called(cached: Path, tmp_path: Path) -> None:
    assert model_name(cached) == model_name(cached / "snapshots" / NEW) == "Small-Model"
    (tmp_path / "Llama-3.2-1B").mkdir()
    assert model_name(tmp_path / "Llama-3.2-1B") == "Llama-3.2-1B"
    assert model_name(tmp_path / "dllama_model_x_q40.m") == "dllama_model_x_q40"


def test_a_name_on_the_hub_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for load in (open_checkpoint, load_tokenizer):
        with pytest.raises(DllamaError, match=r"Hugging Face Hub.*dllama download meta-llama/Llama-3.2-1B"):
            load(Path("meta-llama/Llama-3.2-1B"))
    for path in (Path("gone"), Path("/gone/model"), Path("a/b/c"), Path("../a")):
        assert not isinstance(missing(path), UsageError)
    Path("models").mkdir()
    assert not isinstance(missing(Path("models/Llama")), UsageError)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("adapter_config.json", "LoRA"),
        ("pytorch_model.bin", "PyTorch"),
        ("pytorch_model.bin.index.json", "PyTorch"),
        ("consolidated.00.pth", "no params.json"),
        ("consolidated.safetensors", "no params.json"),
        ("models--a--b", "give the folder of one, as models--a--b"),
        ("dllama_model_x_q40.m", r"give that file"),
    ],
)
@pytest.mark.parametrize("has_config", [False, True])
def test_folders_of_something_else(tmp_path: Path, name: str, what: str, has_config: bool) -> None:
    (tmp_path / name).write_bytes(b"x")
    if has_config:
        shutil.copy(DEMO_MODEL / "config.json", tmp_path)
    with pytest.raises(UnsupportedModelError, match=what) as caught:
        open_checkpoint(tmp_path, ElementType.F32)
    assert str(tmp_path) in str(caught.value)


def test_a_model_is_no_tokenizer_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "x.m").write_bytes(b"\x24\x71\x56\x00" + bytes(100))
    with pytest.raises(ModelFileError, match=r"x\.m: is a \.t tokenizer file"):
        open_checkpoint(tmp_path / "x.m")
    with pytest.raises(TokenizerError, match=r"x\.m: is a model, not a tokenizer"):
        load_tokenizer(tmp_path / "x.m")
