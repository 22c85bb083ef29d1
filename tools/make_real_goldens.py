"""Makes tests/real_goldens: what transformers computes in float32 with the dequantised weights of real GGUF models.

    make real-models
    /tmp/goldens-venv/bin/pip install torch==2.13.0 transformers gguf numpy
    /tmp/goldens-venv/bin/python tools/make_real_goldens.py

Each is an npz: `prompt_ids` int32 [n]; of the logits after each of them the `top_ids` int32 and `top_logits` float32
[n, 64], the logarithm of the sum of all exp(logit) `log_sums` float32 [n]; `greedy_ids` int32 [64] that follow.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
SMOLLM2 = ROOT / ".real-models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
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
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
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
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        name = OUTER.get(tensor.name)
        if name is None:
            layer, part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name).groups()  # type: ignore[union-attr]
            if part in ("attn_q", "attn_k"):
                values = in_halves(values, n_heads if part == "attn_q" else n_kv_heads)
            name = f"model.layers.{layer}.{NAMES[part]}.weight"
        weights[name] = torch.tensor(np.ascontiguousarray(values))
    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), (missing, unexpected)
    return model


def in_halves(matrix: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of q or k in adjacent pairs as halves."""
    n_rows, n_cols = matrix.shape
    pairs = matrix.reshape(n_heads, n_rows // n_heads // 2, 2, n_cols)
    return pairs.swapaxes(1, 2).reshape(n_rows, n_cols)


def main() -> None:
    reader = gguf.GGUFReader(SMOLLM2)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    model = llama(reader, meta)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name)
    prompt = tokenizer.encode(TEXT, add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0]
        text = model.generate(
            torch.tensor([prompt]), max_new_tokens=N_GREEDY, do_sample=False, eos_token_id=None
        )
    top = torch.topk(logits, N_TOP)
    GOLDENS.mkdir(exist_ok=True)
    np.savez_compressed(
        GOLDENS / "smollm2-q4_1.npz",
        prompt_ids=np.array(prompt, np.int32),
        top_ids=top.indices.numpy().astype(np.int32),
        top_logits=top.values.numpy(),
        log_sums=torch.logsumexp(logits.double(), -1).float().numpy(),
        greedy_ids=text[0, len(prompt) :].numpy().astype(np.int32),
    )


if __name__ == "__main__":
    main()
