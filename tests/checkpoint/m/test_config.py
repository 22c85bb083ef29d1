"""`.m` headers and ModelConfigs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint.hf.config import model_from_hf
from dllama.checkpoint.m.config import (
    config_from_header,
    extensions,
    header_from_config,
    header_notes,
    weight_type_of,
)
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.formats.m_file import MKey
from dllama.model import Activation, Experts, ModelConfig, RopeScaling, RopeStyle, YarnScaling
from support.alike import Alike, alike

PATH = Path("somewhere/model.m")
LLAMA = Alike(
    n_layers=32,
    max_seq_len=131072,
    rope_scaling=RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192
    ),
)
YARN = YarnScaling(
    factor=4.0,
    beta_fast=32.0,
    beta_slow=0.75,
    original_max_seq_len=32768,
    attention_factor=1.1386294,
    truncate=True,
)
QWEN3 = dataclasses.replace(
    LLAMA,
    family="qwen3",
    head_dim=64,
    norm_eps=1e-6,
    rope_style=RopeStyle.HALVES,
    rope_scaling=None,
    qk_norm=True,
)
QWEN2 = dataclasses.replace(QWEN3, family="qwen2", qkv_bias=True, qk_norm=False)


def header_of(model: Alike) -> dict[MKey, int]:
    return dict(header_from_config(model.config, model.weight_type))


def model_of(header: dict[MKey, int]) -> Alike:
    return alike(config_from_header(header, PATH), weight_type_of(header, PATH))


def test_llama_3_1_8b_in_the_numbers_of_distributed_llama() -> None:
    assert header_of(LLAMA) == {
        0: 0,
        1: 0xABCD00,
        2: 4096,
        3: 14336,
        4: 32,
        5: 32,
        6: 8,
        7: 0,
        8: 0,
        9: 128256,
        10: 131072,
        11: 1,
        12: 500000,
        13: 2,
        14: 8,
        15: 1,
        16: 4,
        17: 8192,
        18: 2,
    }


def test_qwen3_says_head_dim_and_epsilon() -> None:
    header = header_of(QWEN3)
    assert header[MKey.ARCHITECTURE] == 0xABCD01
    assert header[MKey.HEAD_DIM] == 64
    assert header[MKey.NORM_EPSILON] == 6


@pytest.mark.parametrize(
    "model",
    [
        LLAMA,
        QWEN3,
        QWEN2,
        dataclasses.replace(LLAMA, activation=Activation.GELU, weight_type=ElementType.F32),
        dataclasses.replace(LLAMA, norm_eps=3e-7),
        dataclasses.replace(LLAMA, norm_eps=1e-12, rope_theta=12345.678),
        dataclasses.replace(LLAMA, rope_theta=1e10),
        dataclasses.replace(QWEN3, rope_scaling=LLAMA.rope_scaling),
        dataclasses.replace(QWEN3, rope_scaling=YARN),
        dataclasses.replace(QWEN2, rope_scaling=dataclasses.replace(YARN, truncate=False, factor=2.3)),
        dataclasses.replace(LLAMA, rope_scaling=YARN),
        dataclasses.replace(
            LLAMA,
            rope_scaling=RopeScaling(
                factor=2.5, low_freq_factor=0.75, high_freq_factor=3.25, original_max_seq_len=1
            ),
        ),
    ],
)
def test_written_then_read_is_equal(model: Alike) -> None:
    assert model_of(header_of(model)) == model


def test_mistral_comes_back_as_llama_with_a_context_of_its_window() -> None:
    mistral = dataclasses.replace(LLAMA, family="mistral", sliding_window=4096)
    read = model_of(header_of(mistral))
    assert read == dataclasses.replace(LLAMA, max_seq_len=4096)
    (note,) = header_notes(mistral.config)
    assert "131072 to 4096" in note


def test_notes_say_what_only_dllama_reads() -> None:
    assert extensions(LLAMA.config) == extensions(QWEN3.config) == []
    assert extensions(QWEN2.config) == ["the architecture qwen2"]
    assert extensions(dataclasses.replace(LLAMA, norm_eps=3e-7).config) == [
        "a norm epsilon other than 1e-5 and 1e-6"
    ]
    assert extensions(dataclasses.replace(LLAMA, rope_theta=1.5).config) == [
        "a rope theta that is no whole number"
    ]
    assert extensions(dataclasses.replace(QWEN3, rope_scaling=YARN).config) == ["YaRN"]
    assert extensions(dataclasses.replace(QWEN3, rope_scaling=LLAMA.rope_scaling).config) == [
        "rope scaling of pairs in halves"
    ]


@pytest.mark.parametrize(("eps", "key"), [(1e-5, None), (1e-6, 6)])
def test_an_epsilon_that_has_been_a_float32_is_the_number_that_it_was(eps: float, key: int | None) -> None:
    """What comes from a GGUF file has 9.999999747378752e-06, which others were given as a key that they refuse."""
    config = dataclasses.replace(LLAMA, norm_eps=float(np.float32(eps)))
    header = header_of(config)
    assert header.get(MKey.NORM_EPSILON) == key
    assert extensions(config.config) == []
    assert model_of(header).norm_eps == eps


def test_numbers_beside_whole_ones_are_what_they_are_as_float32() -> None:
    config = dataclasses.replace(LLAMA, rope_theta=float(np.nextafter(500000.0, 0)))
    assert header_of(config)[MKey.ROPE_THETA] == 500000


def test_half_of_yarn_is_damage() -> None:
    header = header_of(dataclasses.replace(QWEN3, rope_scaling=YARN))
    del header[MKey.YARN_BETA_SLOW_BITS]
    with pytest.raises(ModelFileError, match="YARN_BETA_SLOW_BITS"):
        model_of(header)


def test_absent_keys_mean_what_distributed_llama_takes() -> None:
    """A header of its 2024 converters: nothing above key 13."""
    header = {key: value for key, value in header_of(LLAMA).items() if key <= 13 and key not in (11, 12)}
    config = model_of(header)
    assert (config.activation, config.rope_theta, config.norm_eps) == (Activation.SILU, 1e4, 1e-5)
    assert (config.rope_scaling, config.head_dim) == (None, 128)


def test_a_llama_with_the_rope_in_halves() -> None:
    header = header_of(dataclasses.replace(LLAMA, rope_scaling=None))
    assert model_of(header | {MKey.ROPE_TYPE: 1}).rope_style is RopeStyle.HALVES


@pytest.mark.parametrize("key", [1, 2, 3, 4, 5, 6, 9, 10, 13])
def test_a_missing_key_is_named(key: int) -> None:
    header = {name: value for name, value in header_of(LLAMA).items() if name != key}
    with pytest.raises(ModelFileError, match=f"lacks the key {key} "):
        model_of(header)


@pytest.mark.parametrize("key", [2, 3, 4, 5, 6, 9, 10])
@pytest.mark.parametrize("value", [0, -1, -(1 << 31), (1 << 31) - 1])
def test_absurd_sizes_are_refused(key: int, value: int) -> None:
    value = min(value, 0) if key == MKey.MAX_SEQ_LEN else value  # a context may be as long as int32 can say
    with pytest.raises(ModelFileError, match="its header is damaged"):
        model_of(header_of(LLAMA) | {MKey(key): value})


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        (MKey.ACTIVATION, 2, "ACTIVATION 2"),
        (MKey.WEIGHT_TYPE, 16, "WEIGHT_TYPE 16"),
        (MKey.ROPE_TYPE, 7, "ROPE_TYPE 7"),
        (MKey.NORM_EPSILON, 7, "NORM_EPSILON 7"),
        (MKey.HEAD_DIM, 15, "head_dim"),
        (MKey.N_KV_HEADS, 5, "KV heads"),
        (MKey.ROPE_SCALING_FACTOR, 0, "factor"),
        (MKey.ROPE_THETA_BITS, 0x7FC00000, "rope_theta"),
        (MKey.NORM_EPSILON_BITS, 0x7F800000, "norm_eps"),
    ],
)
def test_values_that_cannot_be_are_named(key: MKey, value: int, word: str) -> None:
    with pytest.raises(ModelFileError, match=word):
        model_of(header_of(LLAMA) | {key: value})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({MKey.ARCHITECTURE: 0xABCD05}, "0xABCD05"),
        ({MKey.ARCHITECTURE: 0xABCD01, MKey.N_EXPERTS: 8}, "Grok-1"),
        ({MKey.ARCHITECTURE: 0xABCD02, MKey.N_EXPERTS: 8}, "Mixtral"),
        ({MKey.N_EXPERTS: 8}, "8 experts"),
    ],
)
def test_other_architectures_are_named(changes: dict[MKey, int], word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        model_of(header_of(LLAMA) | changes)


def qwen3_moe(renormalised: bool = True) -> ModelConfig:
    """Qwen3-30B-A3B."""
    layer = QWEN3.config.kinds[0]
    experts = Experts(
        n_experts=128, top_k=8, expert_dim=768, activation=Activation.SILU, renormalised=renormalised
    )
    kinds = (dataclasses.replace(layer, feed_forward=experts),)
    return dataclasses.replace(QWEN3.config, family="qwen3_moe", kinds=kinds)


def test_a_mixture_of_experts_in_the_numbers_of_distributed_llama() -> None:
    header = dict(header_from_config(qwen3_moe(), ElementType.Q40))
    assert header[MKey.ARCHITECTURE] == 0xABCD02
    wanted = {MKey.FFN_DIM: 6144, MKey.N_EXPERTS: 128, MKey.N_ACTIVE_EXPERTS: 8, MKey.MOE_FFN_DIM: 768}
    assert {key: header[key] for key in wanted} == wanted
    assert config_from_header(header, PATH) == qwen3_moe()


@pytest.mark.parametrize("key", [MKey.N_EXPERTS, MKey.N_ACTIVE_EXPERTS, MKey.MOE_FFN_DIM])
def test_a_mixture_needs_its_numbers(key: MKey) -> None:
    header = dict(header_from_config(qwen3_moe(), ElementType.Q40))
    for value in (0, -1, 1 << 30):
        with pytest.raises(ModelFileError, match="damaged"):
            config_from_header(header | {key: value}, PATH)
    del header[key]
    with pytest.raises(ModelFileError, match=f"lacks the key {int(key)}"):
        config_from_header(header, PATH)


def test_weights_that_do_not_sum_to_1_have_no_key() -> None:
    with pytest.raises(UnsupportedModelError, match="no keys"):
        header_from_config(qwen3_moe(renormalised=False), ElementType.Q40)


def test_layers_of_two_kinds_have_no_keys() -> None:
    config = dataclasses.replace(qwen3_moe(), kinds=(*qwen3_moe().kinds, *QWEN3.config.kinds))
    with pytest.raises(UnsupportedModelError, match="no keys for a qwen3_moe model like this one"):
        header_from_config(config, ElementType.Q40)


def test_gemma3_has_no_number() -> None:
    values = {
        "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 4, "sliding_window_pattern": 1,
    }  # fmt: skip
    config = model_from_hf(values, Path("config.json")).config
    with pytest.raises(UnsupportedModelError, match=r"no keys for a gemma3_text model"):
        header_from_config(config, ElementType.Q40)
