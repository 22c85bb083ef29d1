"""config.json becomes a ModelConfig, or a clear refusal."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dllama.checkpoint.hf.config import model_from_hf, read_hf_config
from dllama.errors import DllamaError, ModelFileError, UnsupportedModelError
from dllama.families import known_families
from dllama.model import Activation, Dense, Experts, ModelConfig, RopeScaling, RopeStyle, YarnScaling
from support.alike import Alike, alike

PATH = Path("somewhere/config.json")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config_of(**changes: Any) -> Alike:
    return alike(model_from_hf(LLAMA | changes, PATH).config)


def refusal(kind: type[DllamaError], **changes: Any) -> str:
    values = {key: value for key, value in (LLAMA | changes).items() if value is not ...}
    with pytest.raises(kind) as caught:
        model_from_hf(values, PATH)
    message = str(caught.value)
    assert str(PATH) in message
    assert "\n" not in message
    return message


def test_llama() -> None:
    config = config_of()
    assert (config.family, config.dim, config.ffn_dim, config.n_layers) == ("llama", 128, 256, 2)
    assert (config.n_heads, config.n_kv_heads, config.head_dim, config.group) == (8, 2, 16, 4)
    assert (config.vocab_size, config.max_seq_len, config.norm_eps) == (300, 2048, 1e-5)
    assert (config.rope_theta, config.rope_scaling, config.rope_style) == (1e4, None, RopeStyle.ADJACENT)
    assert config.activation is Activation.SILU
    assert not config.qkv_bias
    assert not config.qk_norm
    assert config.sliding_window is None


def test_survives_json() -> None:
    config = config_of(rope_scaling=LLAMA3)
    assert ModelConfig.from_json(json.loads(json.dumps(config.config.to_json()))) == config.config


def test_missing_kv_heads_are_as_many_as_query_heads() -> None:
    values = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert alike(model_from_hf(values, PATH).config).n_kv_heads == 8


def test_explicit_head_dim_wins_and_null_does_not() -> None:
    assert config_of(head_dim=64).head_dim == 64
    assert config_of(head_dim=None).head_dim == 16


def test_both_spellings_of_the_rope_agree() -> None:
    old = config_of(rope_theta=5e5, rope_scaling=LLAMA3)
    new = config_of(rope_parameters=LLAMA3 | {"rope_theta": 5e5})
    older_still = config_of(
        rope_theta=5e5, rope_scaling={("type" if key == "rope_type" else key): LLAMA3[key] for key in LLAMA3}
    )
    assert old == new == older_still
    assert old.rope_theta == 5e5
    assert old.rope_scaling == RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192
    )


def test_default_rope_is_no_scaling() -> None:
    assert config_of(rope_scaling={"rope_type": "default"}).rope_scaling is None
    assert config_of(rope_scaling=None).rope_scaling is None


def test_tied_head() -> None:
    assert model_from_hf(LLAMA | {"tie_word_embeddings": True}, PATH).tied_head
    assert not model_from_hf(LLAMA, PATH).tied_head


def test_families_differ_as_they_should() -> None:
    qwen2, qwen3 = config_of(model_type="qwen2"), config_of(model_type="qwen3")
    assert (qwen2.qkv_bias, qwen2.qk_norm, qwen2.rope_style) == (True, False, RopeStyle.HALVES)
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.rope_style) == (False, True, RopeStyle.HALVES)
    assert qwen3.head_dim == 128
    assert config_of(model_type="qwen3", head_dim=32).head_dim == 32


@pytest.mark.parametrize(("name", "activation"), [("silu", "silu"), ("gelu_pytorch_tanh", "gelu")])
def test_activations(name: str, activation: str) -> None:
    assert config_of(hidden_act=name).activation == activation


class TestSlidingWindow:
    def test_mistral_has_it_as_given(self) -> None:
        assert config_of(model_type="mistral", sliding_window=256).sliding_window == 256
        assert config_of(model_type="mistral", sliding_window=4096).sliding_window is None

    def test_mistral_null_is_none_and_absent_is_4096(self) -> None:
        long = {"model_type": "mistral", "max_position_embeddings": 32768}
        assert config_of(**long).sliding_window == 4096
        with_null = LLAMA | long | {"sliding_window": None}
        assert alike(model_from_hf(with_null, PATH).config).sliding_window is None

    @pytest.mark.parametrize("family", ["qwen2", "qwen3"])
    def test_qwen_only_where_it_says_so(self, family: str) -> None:
        window = {"model_type": family, "sliding_window": 256, "max_window_layers": 0}
        assert config_of(**window).sliding_window is None
        assert config_of(**window, use_sliding_window=False).sliding_window is None
        assert config_of(**window, use_sliding_window=True).sliding_window == 256
        beyond = window | {"max_window_layers": 2}
        assert config_of(**beyond, use_sliding_window=True).sliding_window is None

    def test_layer_types_win(self) -> None:
        kinds = ["sliding_attention", "sliding_attention"]
        window = {"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": True}
        assert config_of(**window, layer_types=kinds).sliding_window == 256
        assert config_of(**window, layer_types=["full_attention"] * 2).sliding_window is None

    @pytest.mark.parametrize(
        "said", [{"max_window_layers": 1}, {"layer_types": ["full_attention", "sliding_attention"]}]
    )
    def test_some_layers_only(self, said: dict[str, Any]) -> None:
        values = {"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": True}
        config = model_from_hf(LLAMA | values | said, PATH).config
        assert [config.layer(index).mixer.window for index in range(2)] == [None, 256]


GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "hidden_activation": "gelu_pytorch_tanh",
}


class TestGemma3:
    def test_each_sixth_layer_sees_all_and_has_a_rope_of_its_own(self) -> None:
        config = model_from_hf(GEMMA3 | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, PATH).config
        mixers = [config.layer(index).mixer for index in range(12)]
        assert [mixer.window for mixer in mixers] == ([512] * 5 + [None]) * 2
        ropes = [mixer.rope for mixer in mixers]
        assert [rope and (rope.theta, rope.scaling is None) for rope in ropes] == (
            [(1e4, True)] * 5 + [(1e6, False)]
        ) * 2
        assert config.embedding_scale == 640**0.5
        assert all(kind.norms_after for kind in config.kinds)
        assert mixers[0].head_dim == 256
        assert mixers[0].scale is None

    def test_both_spellings_say_the_same(self) -> None:
        newer = {
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        }
        older = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 6}
        assert model_from_hf(GEMMA3 | newer, PATH).config == model_from_hf(GEMMA3 | older, PATH).config

    def test_another_scale(self) -> None:
        config = model_from_hf(GEMMA3 | {"query_pre_attn_scalar": 168}, PATH).config
        assert config.kinds[0].mixer.scale == 168**-0.5

    @pytest.mark.parametrize(
        ("key", "value"), [("final_logit_softcapping", 30.0), ("use_bidirectional_attention", True)]
    )
    def test_what_would_be_missed_is_refused(self, key: str, value: object) -> None:
        with pytest.raises(UnsupportedModelError, match=f"{key} is {value}"):
            model_from_hf(GEMMA3 | {key: value}, PATH)


def test_unknown_family_lists_the_known() -> None:
    message = refusal(UnsupportedModelError, model_type="gemma3")
    assert "'gemma3'" in message
    assert all(name in message for name in known_families())


@pytest.mark.parametrize("kind", ["ntk", "mrope"])
def test_other_rope_scalings_are_named(kind: str) -> None:
    assert f"'{kind}'" in refusal(UnsupportedModelError, rope_scaling={"rope_type": kind, "factor": 2.0})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden_act": "relu"}, "'relu'"),
        ({"hidden_act": 3}, "hidden_act"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "layers"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantised already, by HQQ"),
        ({"quantization_config": {"quant_method": "brand-new"}}, "by 'brand-new'"),
        ({"quantization_config": {"load_in_4bit": True}}, "by bitsandbytes"),
        ({"quantization_config": "?"}, "by an unknown scheme"),
    ],
)
def test_what_is_not_done_is_refused(changes: dict[str, Any], word: str) -> None:
    assert word in refusal(UnsupportedModelError, **changes)


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"])
@pytest.mark.parametrize("value", [..., "128", 128.5, True, 0, -1, 1 << 40])
def test_impossible_sizes_are_named(key: str, value: Any) -> None:
    names = {"hidden_size": "dim", "intermediate_size": "ffn_dim", "num_hidden_layers": "n_layers"}
    message = refusal(ModelFileError, **{key: value})
    assert key in message or names.get(key, key) in message


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"num_attention_heads": 7}, "no multiple"),
        ({"num_attention_heads": 0}, "no multiple"),
        ({"num_key_value_heads": 3}, "3 KV heads"),
        ({"num_key_value_heads": 0}, "n_kv_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({"rms_norm_eps": 0.0}, "norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "layer_types": []},
            "layer_types",
        ),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], word: str) -> None:
    assert word in refusal(ModelFileError, **changes)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "llama"', "\x00\xff", "[" * 100_000])
def test_a_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ModelFileError, match=r"config\.json") as caught:
        read_hf_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json: there is no such file"):
        read_hf_config(tmp_path / "config.json")


# YaRN

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


def yarn_of(**changes: Any) -> YarnScaling:
    scaling = config_of(**changes).rope_scaling
    assert isinstance(scaling, YarnScaling)
    return scaling


def test_yarn_with_what_transformers_assumes() -> None:
    assert yarn_of(rope_scaling=YARN) == YarnScaling(
        factor=4.0,
        beta_fast=32.0,
        beta_slow=1.0,
        original_max_seq_len=1024,
        attention_factor=pytest.approx(0.1 * math.log(4) + 1, rel=1e-7),
        truncate=True,
    )


def test_yarn_stretches_the_context_as_far_as_it_says() -> None:
    """Qwen's cards tell users to add it to a config.json whose max_position_embeddings stays as it was."""
    assert config_of(rope_scaling=YARN, max_position_embeddings=1024).max_seq_len == 4096
    assert config_of(rope_scaling=YARN, max_position_embeddings=10_000).max_seq_len == 10_000
    old = {"type": "yarn", "factor": 2.0}
    config = config_of(rope_scaling=old, max_position_embeddings=1000)
    assert config.max_seq_len == 2000
    assert config.rope_scaling == yarn_of(rope_scaling=old | {"original_max_position_embeddings": 1000})


def test_keys_of_yarn() -> None:
    assert yarn_of(rope_scaling=YARN | {"factor": None}, max_position_embeddings=3072).factor == 3.0
    beside = yarn_of(rope_scaling=YARN, original_max_position_embeddings=512)
    assert beside.original_max_seq_len == 512
    both = yarn_of(rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 0.5})
    assert both.attention_factor == pytest.approx(
        (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1), rel=1e-7
    )
    assert yarn_of(rope_scaling=YARN | {"mscale": 2.0}) == yarn_of(rope_scaling=YARN)
    assert yarn_of(rope_scaling=YARN | {"attention_factor": 1.25, "truncate": False}).attention_factor == 1.25
    assert yarn_of(rope_scaling=YARN | {"factor": 0.5}).attention_factor == 1.0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"factor": 0}, "factor"),
        ({"factor": 1e300}, "max_seq_len"),
        ({"beta_fast": 1, "beta_slow": 2}, "beta_slow"),
        ({"attention_factor": -1}, "attention_factor"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"truncate": 1}, "truncate"),
        ({"rope_theta": 1}, "rope_theta"),
    ],
)
def test_a_yarn_that_cannot_be(changes: dict[str, Any], word: str) -> None:
    assert word in refusal(ModelFileError, rope_scaling=YARN | changes)


def test_dynamic_scaling_leaves_what_fits_the_model_as_it_is() -> None:
    plain = config_of()
    assert config_of(rope_scaling={"type": "dynamic", "factor": 8.0}) == plain


def test_a_plan_carries_yarn() -> None:
    config = config_of(rope_scaling=YARN)
    assert ModelConfig.from_json(json.loads(json.dumps(config.config.to_json()))) == config.config


def test_an_epsilon_of_a_float32() -> None:
    assert config_of(rms_norm_eps=9.999999747378752e-06).norm_eps == 1e-5


class TestExperts:
    MOE = LLAMA | {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 6,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 48,
    }
    EXPERTS = Experts(n_experts=16, top_k=4, expert_dim=48, activation=Activation.SILU, renormalised=False)
    DENSE = Dense(ffn_dim=256, activation=Activation.SILU)

    def layers(self, **changes: Any) -> str:
        """The kind of each layer's feed-forward: d or e."""
        config = model_from_hf(self.MOE | changes, PATH).config
        kinds = [config.layer(index).feed_forward for index in range(config.n_layers)]
        assert set(kinds) <= {self.DENSE, self.EXPERTS}
        return "".join("d" if kind == self.DENSE else "e" for kind in kinds)

    def test_all_layers_have_them_unless_it_is_said(self) -> None:
        assert self.layers() == "eeeeee"
        assert self.layers(decoder_sparse_step=2) == "dedede"
        assert self.layers(mlp_only_layers=[0, 5]) == "deeeed"
        assert self.layers(decoder_sparse_step=3, mlp_only_layers=[2]) == "ddddde"

    def test_they_survive_json(self) -> None:
        config = model_from_hf(self.MOE | {"mlp_only_layers": [1]}, PATH).config
        assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config

    def test_both_names_of_their_number(self) -> None:
        values = {key: value for key, value in self.MOE.items() if key != "num_experts"}
        config = model_from_hf(values | {"num_local_experts": 16, "norm_topk_prob": True}, PATH).config
        (kind,) = config.kinds
        assert kind.feed_forward == dataclasses.replace(self.EXPERTS, renormalised=True)

    @pytest.mark.parametrize(
        ("key", "value", "word"),
        [
            ("num_experts", 0, "n_experts is 0"),
            ("num_experts", 1 << 40, "n_experts"),
            ("num_experts", ..., "num_experts"),
            ("num_experts_per_tok", 17, "17 of 16 experts"),
            ("num_experts_per_tok", 0, "0 of 16 experts"),
            ("moe_intermediate_size", "wide", "moe_intermediate_size"),
            ("decoder_sparse_step", 0, "decoder_sparse_step"),
            ("mlp_only_layers", 3, "mlp_only_layers"),
            ("norm_topk_prob", 1, "norm_topk_prob"),
        ],
    )
    def test_what_cannot_be_is_named(self, key: str, value: Any, word: str) -> None:
        assert word in refusal(ModelFileError, **self.MOE | {key: value})
