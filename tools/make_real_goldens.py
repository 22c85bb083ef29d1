"""Makes tests/real_goldens: what transformers computes in float32 with the dequantised weights of real GGUF models.

    make real-models
    /tmp/goldens-venv/bin/pip install torch==2.13.0 transformers gguf numpy
    /tmp/goldens-venv/bin/python tools/make_real_goldens.py [smollm2] [gemma3]

Each is an npz: `prompt_ids` int32 [n]; of the logits after each of them the `top_ids` int32 and `top_logits` float32
[n, 64], the logarithm of the sum of all exp(logit) `log_sums` float32 [n]; `greedy_ids` int32 [64] that follow.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
SMOLLM2 = ROOT / ".real-models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = ROOT / ".real-models" / "gemma-3-270m-q4_k_m.gguf"
GOLDENS = ROOT / "tests" / "real_goldens"
N_GREEDY, N_TOP = 64, 64
TEXT = (
    "The old lighthouse stood at the end of the harbour, and every evening the keeper climbed its narrow stairs with a"
    " lamp in one hand and a book in the other. He had read all of them twice, some of them three times, and he knew by"
    " heart the names of the ships that had passed. In 1893 a storm took the roof, and for eleven days the light was"
    " dark."
)
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
LLAMA_NAMES = NAMES | {"ffn_norm": "post_attention_layernorm"}
GEMMA3_NAMES = NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def llama(reader: gguf.GGUFReader, meta: dict[str, Any]) -> transformers.PreTrainedModel:
    n_heads, n_kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    config = transformers.LlamaConfig(
        hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        vocab_size=meta["llama.vocab_size"],
        max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        tie_word_embeddings=True,
    )
    return loaded(
        transformers.LlamaForCausalLM(config), weights_of(reader, LLAMA_NAMES, (n_heads, n_kv_heads))
    )


def gemma3(reader: gguf.GGUFReader, meta: dict[str, Any]) -> transformers.PreTrainedModel:
    """The file has norms with the 1 that the class adds."""
    config = transformers.Gemma3TextConfig(
        hidden_size=meta["gemma3.embedding_length"],
        intermediate_size=meta["gemma3.feed_forward_length"],
        num_hidden_layers=meta["gemma3.block_count"],
        num_attention_heads=meta["gemma3.attention.head_count"],
        num_key_value_heads=meta["gemma3.attention.head_count_kv"],
        head_dim=meta["gemma3.attention.key_length"],
        vocab_size=len(meta["tokenizer.ggml.tokens"]),
        max_position_embeddings=meta["gemma3.context_length"],
        rms_norm_eps=meta["gemma3.attention.layer_norm_rms_epsilon"],
        sliding_window=meta["gemma3.attention.sliding_window"],
        query_pre_attn_scalar=meta["gemma3.attention.key_length"],
        attn_implementation="eager",
    )
    weights = weights_of(reader, GEMMA3_NAMES, None)
    weights = {name: values - 1 if "norm" in name else values for name, values in weights.items()}
    return loaded(transformers.Gemma3ForCausalLM(config), weights)


def weights_of(
    reader: gguf.GGUFReader, names: dict[str, str], paired_heads: tuple[int, int] | None
) -> dict[str, torch.Tensor]:
    """`paired_heads`: of q and k, whose rows are in adjacent pairs."""
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        name = OUTER.get(tensor.name)
        if name is None:
            layer, part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name).groups()  # type: ignore[union-attr]
            if paired_heads is not None and part in ("attn_q", "attn_k"):
                values = in_halves(values, paired_heads[part == "attn_k"])
            name = f"model.layers.{layer}.{names[part]}.weight"
        weights[name] = torch.tensor(np.ascontiguousarray(values))
    return weights


def loaded(
    model: transformers.PreTrainedModel, weights: dict[str, torch.Tensor]
) -> transformers.PreTrainedModel:
    missing, unexpected = model.to(torch.float32).eval().load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), (missing, unexpected)
    return model


def in_halves(matrix: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of q or k in adjacent pairs as halves."""
    n_rows, n_cols = matrix.shape
    pairs = matrix.reshape(n_heads, n_rows // n_heads // 2, 2, n_cols)
    return pairs.swapaxes(1, 2).reshape(n_rows, n_cols)


def make(path: Path, golden: str, build: Callable[..., transformers.PreTrainedModel]) -> None:
    reader = gguf.GGUFReader(path)
    model = build(reader, {name: field.contents() for name, field in reader.fields.items()})
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    prompt = tokenizer.encode(TEXT)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
        text = model.generate(
            torch.tensor([prompt]), max_new_tokens=N_GREEDY, do_sample=False, eos_token_id=None
        )
    top = torch.topk(logits, N_TOP)
    GOLDENS.mkdir(exist_ok=True)
    np.savez_compressed(
        GOLDENS / golden,
        prompt_ids=np.array(prompt, np.int32),
        top_ids=top.indices.numpy().astype(np.int32),
        top_logits=top.values.numpy(),
        log_sums=torch.logsumexp(logits.double(), -1).float().numpy(),
        greedy_ids=text[0, len(prompt) :].numpy().astype(np.int32),
    )


def main() -> None:
    wanted = sys.argv[1:] or ["smollm2", "gemma3"]
    if "smollm2" in wanted:
        make(SMOLLM2, "smollm2-q4_1.npz", llama)
    if "gemma3" in wanted:
        make(GEMMA3, "gemma3-q4_k_m.npz", gemma3)


if __name__ == "__main__":
    main()
