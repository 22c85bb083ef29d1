"""Conversion: what it writes, what it reports, and that failures leave nothing behind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dllama.checkpoint import ConvertProgress, chunks, convert_model, open_checkpoint
from dllama.checkpoint import convert as convert_module
from dllama.dtypes import ElementType
from dllama.errors import NotEnoughDiskError, NumericalError, UsageError

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
Copy = Callable[[str], Any]


def test_progress_reaches_the_end_and_never_turns_back(tmp_path: Path) -> None:
    events: list[ConvertProgress] = []
    checkpoint = open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40)
    report = convert_model(checkpoint, tmp_path / "model.m", events.append)
    assert report.path == tmp_path / "model.m"
    assert report.n_bytes == report.path.stat().st_size == events[-1].done_bytes == events[-1].total_bytes
    assert report.n_weights == events[-1].done_weights == events[-1].total_weights
    assert [event.done_weights for event in events] == sorted(event.done_weights for event in events)
    assert list(dict.fromkeys(event.tensor for event in events)) == list(checkpoint.tensors)
    assert report.notes == []


def test_the_file_does_not_depend_on_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40)
    convert_model(checkpoint, tmp_path / "large.m")
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1000)
    monkeypatch.setattr(convert_module, "LET_GO_ELEMENTS", 5000)
    events: list[ConvertProgress] = []
    convert_model(checkpoint, tmp_path / "small.m", events.append)
    assert len(events) > 100
    assert (tmp_path / "small.m").read_bytes() == (tmp_path / "large.m").read_bytes()


def test_a_converted_file_converts_to_itself(tmp_path: Path) -> None:
    convert_model(open_checkpoint(GOLDENS / "qwen2-gqa-tied", ElementType.Q40), tmp_path / "first.m")
    convert_model(open_checkpoint(tmp_path / "first.m"), tmp_path / "second.m")
    assert (tmp_path / "first.m").read_bytes() == (tmp_path / "second.m").read_bytes()


def test_the_header_begins_as_distributed_llama_wants_it(tmp_path: Path) -> None:
    convert_model(open_checkpoint(GOLDENS / "llama3-scaled", ElementType.Q40), tmp_path / "model.m")
    data = (tmp_path / "model.m").read_bytes()
    magic, header_bytes = struct.unpack("<ii", data[:8])
    pairs = dict(struct.iter_unpack("<ii", data[8:header_bytes]))
    assert magic == 0xA00ABCD
    assert set(pairs) == set(range(19))
    assert (pairs[1], pairs[2], pairs[12], pairs[13]) == (0xABCD00, 128, 500000, 2)
    assert [pairs[key] for key in range(14, 19)] == [8, 1, 4, 64, 2]


def test_a_sliding_window_is_said(tmp_path: Path) -> None:
    report = convert_model(open_checkpoint(GOLDENS / "mistral-window", ElementType.Q40), tmp_path / "model.m")
    assert "from 256 to 12" in report.notes[0]
    assert open_checkpoint(tmp_path / "model.m").config.max_seq_len == 12


@pytest.mark.parametrize("weight_type", [ElementType.F32, ElementType.Q40])
def test_nan_leaves_nothing_behind(copy_of: Copy, tmp_path: Path, weight_type: ElementType) -> None:
    directory = copy_of("llama-gqa")
    directory.change_bf16("model.layers.1.mlp.up_proj.weight", 77, 0x7FC0)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.m").write_bytes(b"older")
    with pytest.raises(NumericalError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        convert_model(open_checkpoint(directory.path, weight_type), out / "model.m")
    assert [path.name for path in out.iterdir()] == ["model.m"]
    assert (out / "model.m").read_bytes() == b"older"


def test_nan_in_weights_of_the_same_type_is_found_too(tmp_path: Path) -> None:
    convert_model(open_checkpoint(GOLDENS / "llama-head-dim", ElementType.F32), tmp_path / "model.m")
    data = bytearray((tmp_path / "model.m").read_bytes())
    data[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "model.m").write_bytes(data)
    with pytest.raises(NumericalError, match=r"model\.m: head"):
        convert_model(open_checkpoint(tmp_path / "model.m"), tmp_path / "again.m")
    assert not (tmp_path / "again.m").exists()


def test_an_interrupted_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(progress: ConvertProgress) -> None:
        if progress.tensor == "layers.1.q":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_model(
            open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40), tmp_path / "model.m", interrupt
        )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(path: Path, n_bytes: int) -> None:
        raise NotEnoughDiskError(f"{path} needs {n_bytes}")

    monkeypatch.setattr(convert_module, "require_free_space", no_room)
    with pytest.raises(NotEnoughDiskError):
        convert_model(open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40), tmp_path / "model.m")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        convert_model(
            open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q40), tmp_path / "nowhere" / "model.m"
        )
