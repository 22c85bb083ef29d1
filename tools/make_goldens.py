"""Makes tests/goldens: tiny random models, and what transformers computes with them in float32.

    python3 -m venv /tmp/goldens-venv
    /tmp/goldens-venv/bin/pip install torch==2.13.0
    /tmp/goldens-venv/bin/pip install transformers safetensors numpy
    /tmp/goldens-venv/bin/python tools/make_goldens.py [NAME...]

Each golden is a directory with config.json and safetensors as transformers saves them, and golden.npz:
`prompt_ids` int32 [n], `logits` float32 [n, vocab] after each of them, `greedy_ids` int32 [64] that follow,
and `smallest_gap`, by how much the best logit led the second at the closest of the 64 choices. A model whose
gap is close to float noise is thrown away for the next seed, so that equal ids are a fair thing to ask for.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
N_GREEDY = 64
# Of routers: between the last expert that is taken and the first that is not.
SMALLEST_ROUTER_GAP = 0.0005
# Logits here reach 7 to 10 and agree between programs to about 1e-5 of that.
SMALLEST_GAP = 0.02

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # short, so that all three kinds of frequencies occur in a head of 16 or 32
    "original_max_position_embeddings": 64,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64, "head_dim": 16}
# short contexts, so that a text of 100 tokens goes beyond the one that is stretched
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_OF_ALL_KEYS = YARN_ROPE | {"beta_fast": 16, "beta_slow": 2, "attention_factor": 1.25, "truncate": False}
YARN_OF_MSCALES = YARN_ROPE | {"rope_theta": 10000.0, "mscale": 1.0, "mscale_all_dim": 0.5}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
# one layer of each kind, a window shorter than the text, a scale that is not the usual one
GEMMA3 = {
    "tie_word_embeddings": False,  # a scaled embedding that is the head too repeats itself
    "head_dim": 32,
    "sliding_window": 12,
    "query_pre_attn_scalar": 48,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "rms_norm_eps": 1e-6,
}
MIXTRAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
GEMMA2 = {
    "tie_word_embeddings": False,  # as of Gemma 3
    "head_dim": 32,
    "sliding_window": 12,
    "query_pre_attn_scalar": 32,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 12.0,
    "rms_norm_eps": 1e-6,
}
PHI3 = {"partial_rotary_factor": 0.5, "sliding_window": 12}
LONGROPE = {
    "original_max_position_embeddings": 128,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 128,
        "short_factor": [1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 4.0],
        "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0],
    },
}
# texts stay within the original context, where the position does not matter
MINISTRAL3 = {
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
SMOLLM3 = {
    "num_hidden_layers": 4,
    "attention_bias": True,
    "tie_word_embeddings": False,
}
GRANITE = {
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.25,
    "logits_scaling": 0.5,
    "attention_bias": True,
}
STABLELM = {"use_qkv_bias": True, "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-3}
# 2 of 4 groups, a dense layer first, two shared experts' width
DEEPSEEK_EXPERTS = {
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_shared_experts": 2,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.8,
}
GPT_OSS = {
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "head_dim": 16,
    "sliding_window": 12,
    "rope_parameters": YARN_ROPE | {"truncate": False},
}
GLM4_MOE = DEEPSEEK_EXPERTS | {"head_dim": 32, "use_qk_norm": True, "attention_bias": True}

# three delta nets and a layer of gated attention, values wider than keys, two key heads for eight value heads
DELTA_NET = {
    "head_dim": 32,
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "rms_norm_eps": 1e-6,
}
SHARED_EXPERT = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
SHARED_EXPERT |= {"shared_expert_intermediate_size": 64}
LATENTS = {
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
}
DEEPSEEK_V3 = (
    DEEPSEEK_EXPERTS
    | LATENTS
    | {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "mscale": 0.75,
            "mscale_all_dim": 0.75,
        }
    }
)
GLM4_MOE_LITE = (
    DEEPSEEK_EXPERTS
    | LATENTS
    | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "rope_interleave": False}
)


@dataclasses.dataclass(frozen=True)
class Golden:
    name: str
    family: str
    sizes: dict[str, Any]
    prompt_length: int = 32
    dtype: torch.dtype = torch.float32
    shard_size: str = "1GB"


def sizes(dim: int, ffn: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """Keys of config.json."""
    return {
        "hidden_size": dim,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": 2,
        "vocab_size": 256,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
    } | more


BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
TIED = {"tie_word_embeddings": True}
EPS_6 = {"rms_norm_eps": 1e-6}
GOLDENS_WANTED = [
    Golden("llama-mha", "llama", sizes(64, 128, 4, 4), 32, BF16),
    Golden("llama-gqa", "llama", sizes(128, 288, 8, 2), 40, BF16),
    Golden("llama-mqa-tied", "llama", sizes(64, 192, 8, 1, **TIED), 24, BF16),
    Golden("llama3-scaled", "llama", sizes(128, 256, 8, 4, rope_parameters=LLAMA3_ROPE), 40, BF16),
    Golden("llama-linear", "llama", sizes(64, 128, 4, 2, rope_parameters=LINEAR_ROPE), 24, BF16),
    Golden("llama-head-dim", "llama", sizes(64, 96, 4, 2, head_dim=32, **EPS_6), 24, F32),
    Golden("llama-odd", "llama", sizes(84, 118, 6, 3, vocab_size=301), 30, BF16),
    Golden("llama-gelu", "llama", sizes(64, 96, 2, 1, hidden_act="gelu_pytorch_tanh"), 24, F16),
    Golden("mistral-gqa", "mistral", sizes(128, 224, 8, 4, sliding_window=None), 32, BF16),
    Golden("mistral-window", "mistral", sizes(64, 128, 4, 2, sliding_window=12), 40, F32),
    Golden("qwen2-gqa-tied", "qwen2", sizes(128, 256, 8, 2, **TIED, **EPS_6), 32, BF16),
    Golden("qwen2-odd", "qwen2", sizes(56, 76, 4, 4, vocab_size=257), 24, F16),
    Golden("qwen3-wide-heads", "qwen3", sizes(64, 160, 4, 2, head_dim=32, **EPS_6), 32, BF16),
    Golden("llama-dynamic", "llama", sizes(64, 128, 4, 2, rope_parameters=DYNAMIC_ROPE), 32, BF16),
    Golden("llama-yarn", "llama", sizes(64, 128, 4, 2, rope_parameters=YARN_OF_MSCALES), 40, BF16),
    Golden(
        "mistral-yarn",
        "mistral",
        sizes(64, 128, 4, 2, sliding_window=None, rope_parameters=YARN_ROPE),
        40,
        BF16,
    ),
    Golden("qwen2-yarn", "qwen2", sizes(64, 128, 4, 2, rope_parameters=YARN_OF_ALL_KEYS), 40, BF16),
    Golden(
        "qwen3-yarn", "qwen3", sizes(64, 128, 4, 2, head_dim=32, rope_parameters=YARN_ROPE, **EPS_6), 40, BF16
    ),
    Golden("qwen3-moe", "qwen3_moe", sizes(64, 96, 8, 2, norm_topk_prob=True, **EXPERTS, **EPS_6), 32, BF16),
    Golden(
        "qwen3-moe-mixed",
        "qwen3_moe",
        sizes(64, 96, 8, 4, num_hidden_layers=3, mlp_only_layers=[1], **EXPERTS, **TIED),
        32,
        BF16,
    ),
    Golden("qwen3-shards", "qwen3", sizes(96, 192, 8, 2, head_dim=16, **TIED, **EPS_6), 40, BF16, "150KB"),
    Golden("stablelm", "stablelm", sizes(128, 192, 8, 2, **STABLELM), 32, BF16),
    Golden("gpt-oss", "gpt_oss", sizes(64, 96, 8, 2, **GPT_OSS), 40, BF16),
    Golden(
        "qwen2-moe", "qwen2_moe", sizes(64, 96, 8, 2, shared_expert_intermediate_size=96, **EXPERTS), 32, BF16
    ),
    Golden("mixtral", "mixtral", sizes(64, 96, 8, 2, **MIXTRAL), 32, BF16),
    Golden("gemma2", "gemma2", sizes(96, 160, 8, 2, **GEMMA2), 40, BF16),
    Golden("phi3", "phi3", sizes(128, 192, 8, 2, **PHI3), 40, BF16),
    Golden("phi3-longrope", "phi3", sizes(128, 192, 8, 2, **LONGROPE), 40, BF16),
    Golden("ministral3", "ministral3", sizes(64, 128, 8, 2, **MINISTRAL3), 40, BF16),
    Golden("smollm3", "smollm3", sizes(64, 128, 8, 2, **SMOLLM3), 40, BF16),
    Golden("granite", "granite", sizes(64, 128, 8, 2, **GRANITE), 32, BF16),
    Golden("glm4", "glm4", sizes(64, 128, 8, 2, head_dim=32, rms_norm_eps=1e-6), 32, BF16),
    Golden("deepseek-v3", "deepseek_v3", sizes(64, 96, 8, 8, **DEEPSEEK_V3), 40, BF16),
    Golden("glm4-moe-lite", "glm4_moe_lite", sizes(64, 96, 8, 8, **GLM4_MOE_LITE), 32, BF16),
    Golden("glm4-moe", "glm4_moe", sizes(64, 96, 8, 2, **GLM4_MOE), 32, BF16),
    Golden("qwen3-5", "qwen3_5_text", sizes(64, 96, 8, 2, **DELTA_NET, **TIED), 80, BF16),
    Golden("qwen3-5-moe", "qwen3_5_moe_text", sizes(64, 96, 8, 2, **DELTA_NET, **SHARED_EXPERT), 40, BF16),
    Golden("qwen3-next", "qwen3_next", sizes(64, 96, 8, 2, **DELTA_NET, **SHARED_EXPERT), 40, BF16),
    Golden("gemma3-two-kinds", "gemma3_text", sizes(96, 160, 6, 2, **GEMMA3), 40, BF16),
]


def random_model(golden: Golden, seed: int) -> transformers.PreTrainedModel:
    """A model whose every kind of parameter matters: norms around 1, biases off 0, logits well spread."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(
        golden.family, **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None} | golden.sizes
    )
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".bias", "_bias")):
                parameter.copy_(0.5 * torch.randn_like(parameter))
            elif name.endswith("A_log"):
                parameter.copy_(torch.randn_like(parameter) - 2.0)  # states that are kept for some positions
            elif "norm" in name:
                adds_one = golden.family.startswith(("gemma", "qwen3_5", "qwen3_next"))
                added = 1.0 if adds_one and "linear_attn" not in name else 0.0  # by the class
                parameter.copy_(1.0 - added + 0.25 * torch.randn_like(parameter))
            elif name.endswith(".sinks"):
                parameter.copy_(2 * torch.randn_like(parameter))
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(torch.randn_like(parameter) * (4.0 / parameter.shape[1]) ** 0.5)
            else:
                # q and k twice as large, for attention that picks rather than averages
                queries = ("q_proj", "k_proj", "q_b_proj")
                gain = 2.0 if any(part in name for part in queries) else 1.0
                gain = (
                    3.0 if "gate_up_proj" in name and golden.family == "gpt_oss" else gain
                )  # some are clamped
                parameter.copy_(gain * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
            parameter.copy_(parameter.to(golden.dtype).float())
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_((0.2 * torch.randn_like(buffer)).to(golden.dtype).float())
    return model.eval()


def greedy(model: transformers.PreTrainedModel, prompt: torch.Tensor) -> tuple[list[int], float]:
    """64 ids, each from a whole forward pass without a cache, and the smallest lead of the best logit."""
    ids, gap = prompt, float("inf")
    for _ in range(N_GREEDY):
        last = model(ids[None], use_cache=False).logits[0, -1]
        best = torch.topk(last, 2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids = torch.cat([ids, best.indices[:1]])
    return ids[len(prompt) :].tolist(), gap


def router_gap(model: transformers.PreTrainedModel, ids: torch.Tensor) -> float:
    """By how much the last expert that is taken leads the next one, where that is least; of groups of experts too."""
    top_k = getattr(model.config, "num_experts_per_tok", None)
    if top_k is None:
        return float("inf")
    logits = model(ids[None], use_cache=False, output_router_logits=True).router_logits
    biases = [bias for name, bias in model.named_buffers() if name.endswith("e_score_correction_bias")]
    if not biases:
        return lead(torch.cat(logits), top_k)
    gap = float("inf")
    for of_layer, bias in zip(logits, biases, strict=True):
        scores = of_layer.sigmoid() + bias
        n_groups, n_taken = getattr(model.config, "n_group", 1), getattr(model.config, "topk_group", 1)
        if n_groups > n_taken:
            groups = scores.view(len(scores), n_groups, -1)
            sums = groups.topk(2, dim=-1).values.sum(dim=-1)
            gap = min(gap, lead(sums, n_taken))
            left = sums < sums.topk(n_taken).values[:, -1:]
            scores = groups.masked_fill(left[:, :, None], -float("inf")).view(scores.shape)
        gap = min(gap, lead(scores, top_k))
    return gap


def lead(scores: torch.Tensor, n: int) -> float:
    """By how much the n-th largest of a row leads the next one, where that is least."""
    best = scores.topk(n + 1).values
    return float((best[:, -2] - best[:, -1]).min())


def make(golden: Golden) -> None:
    for seed in range(1000):
        model = random_model(golden, seed)
        prompt = torch.randint(3, golden.sizes["vocab_size"], (golden.prompt_length,))
        with torch.inference_mode():
            ids, gap = greedy(model, prompt)
            logits = model(prompt[None], use_cache=False).logits[0].numpy()
            routed = router_gap(model, torch.cat([prompt, torch.tensor(ids)]))
        if gap >= SMALLEST_GAP and routed >= SMALLEST_ROUTER_GAP and len(set(ids)) >= N_GREEDY // 4:
            break
    else:
        raise SystemExit(f"{golden.name}: no seed gives clear choices")
    directory = GOLDENS / golden.name
    shutil.rmtree(directory, ignore_errors=True)
    model.to(golden.dtype).save_pretrained(directory, max_shard_size=golden.shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    np.savez(
        directory / "golden.npz",
        prompt_ids=prompt.numpy().astype(np.int32),
        logits=logits.astype(np.float32),
        greedy_ids=np.array(ids, dtype=np.int32),
        smallest_gap=np.float32(gap),
    )
    n_bytes = sum(file.stat().st_size for file in directory.iterdir())
    print(
        f"{golden.name}: seed {seed}, smallest gap {gap:.3f}, largest logit {np.abs(logits).max():.1f}, "
        f"{len(set(ids))} different ids, {n_bytes} bytes"
    )


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for golden in GOLDENS_WANTED:
        if not sys.argv[1:] or golden.name in sys.argv[1:]:
            make(golden)


if __name__ == "__main__":
    main()
