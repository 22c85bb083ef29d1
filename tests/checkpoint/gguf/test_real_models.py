"""Files that llama.cpp's own tools made: what is read of them, and what is computed with it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.families import family_named
from dllama.kernels.blocks import decode
from support.gguf_model import package_name
from support.local_cluster import LocalCluster
from support.real_models import GEMMA3_GGUF, SMOLLM2_GGUF, needs_gemma3_gguf, needs_smollm2_gguf
from support.sequences import CachedSequence, Run, Steps, Want

GOLDENS = Path(__file__).resolve().parents[2] / "real_goldens"
F32 = ElementType.F32

MODELS = [
    pytest.param(SMOLLM2_GGUF, "smollm2-q4_1.npz", marks=needs_smollm2_gguf, id="smollm2"),
    pytest.param(GEMMA3_GGUF, "gemma3-q4_k_m.npz", marks=needs_gemma3_gguf, id="gemma3"),
]


@needs_smollm2_gguf
@pytest.mark.slow
def test_values_of_smollm2_are_those_of_the_gguf_package() -> None:
    """Bit for bit, in the order of the file: its q and k are in adjacent pairs."""
    model = open_checkpoint(SMOLLM2_GGUF)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(SMOLLM2_GGUF).tensors}
    for name in (
        "embedding",
        "head",
        "final_norm",
        "layers.0.q",
        "layers.29.k",
        "layers.7.down",
        "layers.3.ffn_norm",
    ):
        stored = tensors[package_name(family_named("llama"), "embedding" if name == "head" else name)]
        recipe = model.recipe(name)
        rows = range(0, recipe.n_rows, max(1, recipe.n_rows // 64))
        wanted = gguf.dequantize(
            stored.data.reshape(recipe.n_rows, -1)[rows.start :: rows.step], stored.tensor_type
        )
        got = decode(recipe.dtype, recipe.take(rows, range(recipe.n_cols)), recipe.n_cols)
        np.testing.assert_array_equal(got, wanted.reshape(got.shape), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(1.0,), (1.0, 1.0, 1.0)], ids=len)
@pytest.mark.parametrize(("model", "golden_name"), MODELS)
def test_logits_are_those_of_transformers(model: Path, golden_name: str, shares: tuple[float, ...]) -> None:
    """With the same weights dequantised, in float32: within 1e-4 of the largest, as for every golden."""
    golden = np.load(GOLDENS / golden_name)
    prompt = golden["prompt_ids"].tolist()
    with LocalCluster(model, shares=shares, max_rows=128) as cluster:
        steps, sequence = Steps(cluster), CachedSequence()
        steps.step([Run(sequence, prompt, Want.ALL)])
        logits = steps.whole_logits()[: len(prompt)]
        got = np.take_along_axis(logits, golden["top_ids"], axis=1)
        bound = 1e-4 * np.abs(golden["top_logits"]).max()
        assert np.abs(got - golden["top_logits"]).max() <= bound
        assert np.abs(np.log(np.exp(logits.astype(np.float64)).sum(-1)) - golden["log_sums"]).max() <= bound
        for token_id in golden["greedy_ids"].tolist():
            assert int(logits[-1].argmax()) == token_id
            steps.step([Run(sequence, [token_id], Want.ALL)])
            logits = steps.whole_logits()[:1]
