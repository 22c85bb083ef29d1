"""Importance is what the whole model's matrices take, though one layer at a time is computed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from dllama.calibration import calibration_text, collect, collect_importance
from dllama.checkpoint import Importance, open_checkpoint
from dllama.cli import importance as cli_importance
from dllama.dtypes import ElementType
from dllama.engine import TokenChunk, ragged_batch
from dllama.errors import NotEnoughMemoryError, NumericalError
from support.local_cluster import GOLDENS, WITH_ROWS_OF_NO_BLOCKS, LocalCluster
from support.processes import DEMO_MODEL

WHOLE_BLOCKS = [path.name for path in sorted(GOLDENS.iterdir()) if path.name not in WITH_ROWS_OF_NO_BLOCKS]
IDS = [(7 * i * i + 3 * i) % 251 for i in range(70)]


def collected(name: str, ids: list[int] = IDS) -> Importance:
    with contextlib.closing(open_checkpoint(GOLDENS / name, ElementType.Q80)) as checkpoint:
        return collect_importance(checkpoint, 1, ids)


@pytest.mark.parametrize(
    "name",
    ["llama-gqa", "qwen2-gqa-tied", "qwen3-wide-heads", "mistral-window", "qwen3-moe-mixed", "qwen3-5"],
)
def test_the_head_takes_what_the_whole_model_gives_it(name: str) -> None:
    """Bit for bit what comes out of all layers in a row: whatever steps it is computed in."""
    importance = collected(name)
    with LocalCluster(
        GOLDENS / name, weight_type=ElementType.Q80, cache_type=ElementType.F16, max_rows=128
    ) as cluster:
        cluster.step(ragged_batch([TokenChunk(IDS, 0, cluster.cache.lone_pages(0, len(IDS)), 1)]))
        hidden = cluster.hidden()
    np.testing.assert_array_equal(
        importance["head"], np.square(hidden, dtype=np.float64).mean(axis=0).astype(np.float32)
    )


@pytest.mark.parametrize("name", WHOLE_BLOCKS)
def test_every_matrix_has_an_importance(name: str) -> None:
    """Those that share an input have the same, and each expert its own."""
    importance, model = collected(name), open_checkpoint(GOLDENS / name, ElementType.Q80)
    matrices = {tensor.name: tensor for tensor in model.model.held() if tensor.dtype.is_blocked}
    assert importance.keys() == matrices.keys()
    for matrix, values in importance.items():
        tensor = matrices[matrix]
        is_stack = len(tensor.shape) == 3
        assert values.shape == ((tensor.n_stacked, tensor.n_cols) if is_stack else (tensor.n_cols,))
        assert not is_stack or (values[0] != values[1]).any()
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        assert values.max() > 0
        prefix, _, last = matrix.rpartition(".")
        shared = {"k": "q", "v": "q", "up": "gate", "experts_up": "experts_gate"}.get(last)
        if shared is not None:
            np.testing.assert_array_equal(values, importance[f"{prefix}.{shared}"])


def test_the_inputs_of_the_first_layer_are_the_normed_embedding() -> None:
    with contextlib.closing(open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q80)) as checkpoint:
        x = checkpoint.embed(IDS).astype(np.float64)
        weight = checkpoint.read("layers.0.attention_norm", (0, 1), (0, x.shape[1])).view(np.float32)
        eps = checkpoint.config.norm_eps
    normed = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + eps) * weight
    wanted = np.square(normed).mean(axis=0)
    # A product takes blocks of 32 in steps of a 127th of the largest: half a step is lost of each number.
    step = np.abs(normed).reshape(len(normed), -1, 32).max(axis=2).max() / 127
    slack = step / 2 * (2 * np.abs(normed).mean(axis=0) + step / 2)
    assert (np.abs(collected("llama-gqa")["layers.0.q"] - wanted) <= slack * 1.01).all()


def test_a_text_longer_than_a_window_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "_WINDOW", 64)
    monkeypatch.setattr(collect, "_MAX_ROWS", 48)
    whole, first, second = (collected("llama-gqa", ids) for ids in (IDS, IDS[:64], IDS[64:]))
    for name, values in whole.items():
        joined = (64 * first[name].astype(float) + (len(IDS) - 64) * second[name]) / len(IDS)
        np.testing.assert_allclose(values, joined, rtol=1e-5)


def test_progress_counts_layers() -> None:
    seen: list[tuple[int, int]] = []
    with contextlib.closing(open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q80)) as checkpoint:
        collect_importance(checkpoint, 1, IDS[:3], lambda done, total: seen.append((done, total)))
        n_layers = checkpoint.config.n_layers
    assert seen == [(n + 1, n_layers) for n in range(n_layers)]


def test_the_text_is_a_few_thousand_words_of_many_kinds() -> None:
    text = calibration_text()
    assert 1500 < len(text.split()) < 5000
    for fragment in ("```python", "| city |", '"station"', "User: ", "bibliothèque"):
        assert fragment in text


def test_what_is_computed_has_to_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are numbers may still be too large: what they give is said, and not taken for importance."""
    with contextlib.closing(open_checkpoint(GOLDENS / "llama-gqa", ElementType.Q80)) as checkpoint:
        embed = checkpoint.embed
        monkeypatch.setattr(checkpoint, "embed", lambda ids: np.full_like(embed(ids), np.inf))
        with pytest.raises(NumericalError, match="layer 0 computes NaN"):
            collect_importance(checkpoint, 1, IDS)


def test_a_text_that_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo model's directory is read, not written to."""
    text = tmp_path / "text.txt"
    text.write_text("a cat and a dog " * 100)
    monkeypatch.setattr(cli_importance, "available_memory_bytes", lambda: 50_000)
    with (
        contextlib.closing(open_checkpoint(DEMO_MODEL, ElementType.Q40)) as checkpoint,
        pytest.raises(NotEnoughMemoryError, match=r"text\.txt has \d+ tokens"),
    ):
        cli_importance.importance_for(checkpoint, str(text))
