"""What the makers of a model suggest for sampling it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllama.checkpoint import read_suggested_sampling
from dllama.errors import ModelFileError
from dllama.formats.gguf import write_gguf


def written(directory: Path, content: str) -> Path:
    (directory / "generation_config.json").write_text(content)
    return directory


def test_what_it_says_is_taken_and_no_more(tmp_path: Path) -> None:
    assert read_suggested_sampling(tmp_path) == {}
    assert read_suggested_sampling(tmp_path / "model.m") == {}
    config = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": None,
        "do_sample": True,
        "eos_token_id": 5,
    }
    found = read_suggested_sampling(written(tmp_path, json.dumps(config)))
    assert found == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 10**400),
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", 1.5),
        ("top_k", -2),
        ("top_k", [50]),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, name: str, value: object) -> None:
    directory = written(tmp_path, json.dumps({name: value}))
    with pytest.raises(ModelFileError, match=rf"generation_config\.json: {name} cannot be "):
        read_suggested_sampling(directory)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", '"x"', "\xff"])
def test_damaged_files(tmp_path: Path, content: str) -> None:
    with pytest.raises(ModelFileError, match=r"generation_config\.json"):
        read_suggested_sampling(written(tmp_path, content))


def test_of_a_model_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "generation_config.json").write_text('{"temperature": 0.5}')
    assert read_suggested_sampling(tmp_path / "models--a--b") == {"temperature": 0.5}


def gguf_of(path: Path, **values: float) -> Path:
    keys = {"general.architecture": "llama"} | {f"general.sampling.{key}": one for key, one in values.items()}
    with write_gguf(path, keys, []):
        return path


def test_a_gguf_file_says_it_in_its_metadata(tmp_path: Path) -> None:
    path = gguf_of(tmp_path / "model.gguf", temp=0.5, top_k=64, top_p=0.875, penalty_last_n=64)
    assert read_suggested_sampling(path) == {"temperature": 0.5, "top_k": 64, "top_p": 0.875}
    assert read_suggested_sampling(tmp_path) == read_suggested_sampling(path)
    with pytest.raises(ModelFileError, match=r"model\.gguf: general\.sampling\.min_p cannot be 2\.5"):
        read_suggested_sampling(gguf_of(tmp_path / "model.gguf", min_p=2.5))
