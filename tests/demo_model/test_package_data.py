"""The bundled demo model is a whole Hugging Face directory that fits its tokenizer and its size limit."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from tokenizers import Tokenizer

import dllama

DIRECTORY = Path(dllama.__file__).parent / "demo_model"
FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
    "tokenizer_config.json",
)
MAX_BYTES = 8_000_000
NASTY_TEXTS = (
    "",
    "Once upon a time there was a little fox.",
    "12345 67 3.14159",
    "  two  spaces,\ttabs\r\nand\n\n\nlines   ",
    "def f(x):\n    return x**2  # don't",
    "你好，世界 こんにちは",
    "مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 e\u0301 \u200b",
    "".join(map(chr, range(1, 256))),
)


def load_json(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((DIRECTORY / name).read_text(encoding="utf-8"))
    return values


def tensor_headers() -> dict[str, dict[str, Any]]:
    """Name to dtype, shape and offsets, as the safetensors format stores them."""
    data = (DIRECTORY / "model.safetensors").read_bytes()
    (n_bytes,) = struct.unpack_from("<Q", data)
    headers: dict[str, dict[str, Any]] = json.loads(data[8 : 8 + n_bytes])
    headers.pop("__metadata__", None)
    assert max(header["data_offsets"][1] for header in headers.values()) == len(data) - 8 - n_bytes
    return headers


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DIRECTORY / "tokenizer.json"))


def test_directory_is_complete_and_small() -> None:
    assert sorted(path.name for path in DIRECTORY.iterdir()) == sorted(FILES)
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) <= MAX_BYTES


def test_tensors_are_those_of_the_config() -> None:
    config = load_json("config.json")
    dim, ffn = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    expected = {"model.embed_tokens.weight": [config["vocab_size"], dim], "model.norm.weight": [dim]}
    for layer in range(config["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": [query, dim],
            "self_attn.k_proj": [key, dim],
            "self_attn.v_proj": [key, dim],
            "self_attn.o_proj": [dim, query],
            "mlp.gate_proj": [ffn, dim],
            "mlp.up_proj": [ffn, dim],
            "mlp.down_proj": [dim, ffn],
            "input_layernorm": [dim],
            "post_attention_layernorm": [dim],
        }
        expected |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    headers = tensor_headers()
    assert {name: header["shape"] for name, header in headers.items()} == expected
    assert {header["dtype"] for header in headers.values()} == {"BF16"}
    assert config["tie_word_embeddings"]
    assert config["model_type"] == "llama"


def test_eight_nodes_can_share_it_in_q40() -> None:
    config = load_json("config.json")
    assert config["num_attention_heads"] >= 8
    assert config["hidden_size"] % 32 == config["head_dim"] % 32 == config["intermediate_size"] % 32 == 0
    assert config["intermediate_size"] // 32 >= 8
    assert config["vocab_size"] >= 8


def test_tokenizer_fits_the_model(tokenizer: Tokenizer) -> None:
    config, generation = load_json("config.json"), load_json("generation_config.json")
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    ends = [tokenizer.token_to_id("<|end_of_text|>"), tokenizer.token_to_id("<|eot_id|>")]
    assert config["eos_token_id"] == generation["eos_token_id"] == ends
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    assert config["bos_token_id"] == generation["bos_token_id"] == bos
    assert tokenizer.encode("Hello").ids[0] == bos


@pytest.mark.parametrize("text", NASTY_TEXTS)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text


def test_every_word_of_the_vocabulary_is_reached_by_merging(tokenizer: Tokenizer) -> None:
    """So that a plain BPE gives the same ids, whether or not it looks whole words up first."""
    words = json.loads(tokenizer.to_str())
    assert words["model"]["ignore_merges"]
    words["model"]["ignore_merges"] = False
    merging = Tokenizer.from_str(json.dumps(words))
    for token_id in range(load_json("config.json")["bos_token_id"]):
        text = tokenizer.decode([token_id])
        if "\ufffd" not in text:
            assert merging.encode(text).ids == tokenizer.encode(text).ids, text


def test_chat_template_marks_every_turn(tokenizer: Tokenizer) -> None:
    template = jinja2.sandbox.SandboxedEnvironment().from_string(
        load_json("tokenizer_config.json")["chat_template"]
    )
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " Hi! "},
    ]
    text = template.render(messages=messages, bos_token="<|begin_of_text|>", add_generation_prompt=True)
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids[0] == tokenizer.token_to_id("<|begin_of_text|>")
    assert ids.count(tokenizer.token_to_id("<|eot_id|>")) == 2
    assert ids.count(tokenizer.token_to_id("<|start_header_id|>")) == 3
