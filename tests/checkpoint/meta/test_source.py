"""What Meta and Mistral publish reads as the Hugging Face directory of the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dllama.checkpoint import Checkpoint, open_checkpoint
from dllama.checkpoint.meta.config import read_params
from dllama.dtypes import ElementType
from dllama.errors import DllamaError, ModelFileError, UnsupportedModelError
from dllama.model import RopeScaling
from support.alike import alike
from support.local_cluster import LocalCluster
from support.quantised import Stored, write_safetensors
from support.sequences import CachedSequence, Run, Steps, Want
from support.torch_bytes import shards_of, write_torch_file

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
NAMES = {
    "embedding": "tok_embeddings.weight",
    "q": "attention.wq.weight",
    "k": "attention.wk.weight",
    "v": "attention.wv.weight",
    "o": "attention.wo.weight",
    "gate": "feed_forward.w1.weight",
    "down": "feed_forward.w2.weight",
    "up": "feed_forward.w3.weight",
    "attention_norm": "attention_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    "final_norm": "norm.weight",
    "head": "output.weight",
}
BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")


def published_name(name: str) -> str:
    prefix, _, part = name.rpartition(".")
    return f"{prefix}.{NAMES[part]}" if prefix else NAMES[part]


def tensors_of(golden: str) -> Stored:
    """In BF16, or F32 where that is not enough; rows of q and k in adjacent pairs."""
    checkpoint = open_checkpoint(GOLDENS / golden, ElementType.F32)
    tensors: Stored = {}
    for name, tensor in checkpoint.tensors.items():
        values = checkpoint.read(name, (0, tensor.stacked_rows), (0, tensor.n_cols))
        bits = np.ascontiguousarray(values).view(np.uint32)
        if (bits & 0xFFFF).any():
            tensors[published_name(name)] = "F32", list(tensor.shape), bits.tobytes()
        else:
            halves = (bits >> 16).astype(np.uint16)
            tensors[published_name(name)] = "BF16", list(tensor.shape), halves.tobytes()
    return tensors


def params_of(golden: str, **more: Any) -> dict[str, Any]:
    config = json.loads((GOLDENS / golden / "config.json").read_text())
    return {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "vocab_size": -1,
        "max_seq_len": config["max_position_embeddings"],
        **more,
    }


def of_meta(folder: Path, n_shards: int = 1, *, embedding_by_columns: bool = True) -> Path:
    tensors = tensors_of("llama-gqa")
    columns: dict[str, bool | None] = {name: name.endswith(BY_COLUMNS) for name in tensors}
    columns |= {name: None for name in tensors if name.endswith("norm.weight")}
    columns["tok_embeddings.weight"] = embedding_by_columns
    for number, shard in enumerate(shards_of(tensors, n_shards, columns)):
        more: Stored = {"rope.freqs": ("F32", [8], bytes(32))}
        write_torch_file(folder / f"consolidated.{number:02}.pth", shard | more)
    (folder / "params.json").write_text(
        json.dumps(params_of("llama-gqa", multiple_of=256, ffn_dim_multiplier=1.3))
    )
    return folder


def of_mistral(folder: Path) -> Path:
    write_safetensors(folder / "consolidated.safetensors", tensors_of("mistral-window"))
    config = json.loads((GOLDENS / "mistral-window" / "config.json").read_text())
    own = {"hidden_dim": config["intermediate_size"], "head_dim": config.get("head_dim")}
    params = params_of("mistral-window", sliding_window=config["sliding_window"], **own)
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def assert_same(got: Checkpoint, golden: str) -> None:
    wanted = open_checkpoint(GOLDENS / golden, ElementType.F32)
    assert got.config == wanted.config
    for name, tensor in wanted.tensors.items():
        rows, n_cols = (0, tensor.stacked_rows), tensor.n_cols
        for cols in (
            (0, n_cols),
            (n_cols // 3, n_cols // 3),
            (n_cols // 4, n_cols - 1),
            (n_cols // 2, n_cols),
        ):
            np.testing.assert_array_equal(
                got.read(name, rows, cols), wanted.read(name, rows, cols), err_msg=name
            )
    np.testing.assert_array_equal(got.embed([3, 0, 255]), wanted.embed([3, 0, 255]))


@pytest.mark.parametrize("by_columns", [True, False])
@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_meta(n_shards: int, by_columns: bool, tmp_path: Path) -> None:
    assert_same(
        open_checkpoint(of_meta(tmp_path, n_shards, embedding_by_columns=by_columns), ElementType.F32),
        "llama-gqa",
    )


def test_mistral(tmp_path: Path) -> None:
    assert_same(open_checkpoint(of_mistral(tmp_path), ElementType.F32), "mistral-window")


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 1.0), (1.0, 1.0, 1.0)], ids=len)
def test_logits(shares: tuple[float, ...], tmp_path: Path) -> None:
    golden = np.load(GOLDENS / "llama-gqa" / "golden.npz")
    prompt = golden["prompt_ids"].tolist()
    logits = []
    for model in (GOLDENS / "llama-gqa", of_meta(tmp_path, 2)):
        with LocalCluster(model, shares=shares) as cluster:
            steps = Steps(cluster)
            steps.step([Run(CachedSequence(), prompt, Want.ALL)])
            logits.append(steps.whole_logits()[: len(prompt)].copy())
    np.testing.assert_array_equal(*logits)


def test_default_type(tmp_path: Path) -> None:
    assert open_checkpoint(of_meta(tmp_path)).model == open_checkpoint(GOLDENS / "llama-gqa").model


SIZES = {"intermediate_size": 512, "vocab_size": 128256}
LLAMA = {"dim": 4096, "n_layers": 2, "n_heads": 32, "n_kv_heads": 8, "norm_eps": 1e-5, "rope_theta": 5e5}


class TestParams:
    def read(self, tmp_path: Path, **more: Any) -> Any:
        path = tmp_path / "params.json"
        path.write_text(json.dumps(LLAMA | more))
        sizes = SIZES | {key: more[key] for key in ("vocab_size",) if key in more}
        return alike(read_params(path, sizes, is_tied=False).config)

    def test_llama_3_and_3_1(self, tmp_path: Path) -> None:
        assert self.read(tmp_path).max_seq_len == 8192
        config = self.read(tmp_path, use_scaled_rope=True)
        scaling = config.rope_scaling
        assert (config.max_seq_len, config.family) == (131072, "llama")
        assert isinstance(scaling, RopeScaling)
        assert (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor) == (8.0, 1.0, 4.0)
        assert self.read(tmp_path, dim=2048, use_scaled_rope=True).rope_scaling.factor == 32.0

    def test_llama_2_and_1(self, tmp_path: Path) -> None:
        old = {"vocab_size": 32000, "rope_theta": None}
        assert self.read(tmp_path, **old).max_seq_len == 4096
        assert self.read(tmp_path, **old, norm_eps=1e-6).max_seq_len == 2048

    @pytest.mark.parametrize("key", ["moe", "quantization", "yarn", "something_new"])
    def test_what_would_be_missed_is_refused(self, key: str, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModelError, match=rf"params\.json: {key} is not supported"):
            self.read(tmp_path, **{key: {"a": 1}})


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda tensors: tensors.pop("layers.1.attention.wk.weight"),
                "the tensor layers.1.attention.wk.weight is",
            ),
            (lambda tensors: tensors.pop("layers.0.feed_forward.w1.weight"), "w1.weight is missing"),
            (
                lambda tensors: tensors.update({"layers.0.attention.wq.bias": ("F32", [2], bytes(8))}),
                "has no place",
            ),
            (
                lambda tensors: tensors.update({"norm.weight": ("BF16", [32], bytes(64))}),
                "norm.weight has the shape",
            ),
            (
                lambda tensors: tensors.update(
                    {"layers.1.attention.wo.weight": ("I32", [128, 128], bytes(65536))}
                ),
                "is stored as I32",
            ),
        ],
    )
    def test_tensors(self, change: Callable[[Stored], Any], message: str, tmp_path: Path) -> None:
        of_mistral(tmp_path)
        tensors = tensors_of("mistral-window")
        change(tensors)
        write_safetensors(tmp_path / "consolidated.safetensors", tensors)
        with pytest.raises(DllamaError) as caught:
            open_checkpoint(tmp_path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_shard(self, tmp_path: Path) -> None:
        of_meta(tmp_path, 4)
        (tmp_path / "consolidated.01.pth").unlink()
        with pytest.raises(ModelFileError, match=r"consolidated\.01\.pth: is missing"):
            open_checkpoint(tmp_path)

    def test_the_last_shard_is_missing(self, tmp_path: Path) -> None:
        of_meta(tmp_path, 4)
        (tmp_path / "consolidated.03.pth").unlink()
        with pytest.raises(ModelFileError, match=r"has the shape \[.*\] and \[.*params\.json asks for"):
            open_checkpoint(tmp_path)
