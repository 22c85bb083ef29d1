"""The mixtures of DeepSeek-V3 (DeepSeek-AI 2024, arXiv:2412.19437), which others took over: sigmoids with a bias for
the choice, groups of experts, a shared expert beside them, and dense layers first.

Keys: DeepseekV3Config of transformers; defaults are the family's.
"""

from __future__ import annotations

import reprlib

from dllama.errors import ModelFileError
from dllama.families import reading
from dllama.families.keys import Keys
from dllama.model import Dense, Experts

NAMES = {
    "router_choice_bias": "model.layers.{layer}.mlp.gate.e_score_correction_bias",
    "shared_gate": "model.layers.{layer}.mlp.shared_experts.gate_proj.weight",
    "shared_down": "model.layers.{layer}.mlp.shared_experts.down_proj.weight",
    "shared_up": "model.layers.{layer}.mlp.shared_experts.up_proj.weight",
}
"""What they are called (see Family.other_names)."""


def mixture(keys: Keys) -> Experts:
    """Of the layers that are not dense."""
    scores = keys.get("scoring_func", "sigmoid")
    if scores != "sigmoid":
        raise keys.unsupported(
            f"scoring_func is {reprlib.repr(scores)}, which is not supported; supported is sigmoid"
        )
    width, n_shared = keys.whole("moe_intermediate_size"), keys.whole("n_shared_experts", 0)
    kind = reading.activation(keys)
    return Experts(
        n_experts=keys.whole("n_routed_experts"),
        top_k=keys.whole("num_experts_per_tok"),
        expert_dim=width,
        activation=kind,
        renormalised=keys.flag("norm_topk_prob", True),
        sigmoid=True,
        choice_bias=True,
        n_groups=keys.whole("n_group", 1),
        top_groups=keys.whole("topk_group", 1),
        group_best=2,
        scale=keys.number("routed_scaling_factor", 1.0),
        shared=Dense(ffn_dim=width * n_shared, activation=kind) if n_shared else None,
    )


def feed_forwards(keys: Keys) -> list[Dense | Experts]:
    """That of each layer: the first `first_k_dense_replace` are dense."""
    n, n_dense = reading.n_layers(keys), keys.whole("first_k_dense_replace", 0)
    if not 0 <= n_dense <= n:
        raise ModelFileError(f"{keys.path}: first_k_dense_replace is {n_dense}, which cannot be (0 to {n})")
    return [reading.dense(keys)] * n_dense + [mixture(keys) for _ in range(n - n_dense)]
