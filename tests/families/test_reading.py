"""What families say by keys that several have, and how what is not done is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import Keys, reading
from dllama.model import FactorScaling, Layer, ModelConfig, NormKind, RopeStyle

VALUES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
}


def keys_of(**changes: Any) -> Keys:
    return Keys(VALUES | changes, Path("config.json"))


def model_of(norm: NormKind, **changes: Any) -> ModelConfig:
    keys = keys_of(**changes)
    attention = reading.attention(keys, RopeStyle.ADJACENT, partial=True)
    layer = Layer(mixer=attention, feed_forward=reading.dense(keys), norm=norm)
    return reading.model(keys, "llama", [layer] * reading.n_layers(keys))


def test_the_kind_of_norm_says_which_key_has_its_eps() -> None:
    both = {"rms_norm_eps": 1e-4, "layer_norm_eps": 1e-3}
    for norm, default, given in ((NormKind.RMS, 1e-6, 1e-4), (NormKind.LAYER, 1e-5, 1e-3)):
        assert model_of(norm).norm_eps == default
        assert model_of(norm, **both).norm_eps == given
        assert model_of(norm).final_norm is norm


@pytest.mark.parametrize(
    "where",
    [
        {"partial_rotary_factor": 0.25},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.25},
    ],
)
def test_a_rope_of_a_part(where: dict[str, Any]) -> None:
    rope = model_of(NormKind.RMS, **where).kinds[0].mixer.rope
    assert rope is not None
    assert rope.n_rotated == 8
    with pytest.raises(UnsupportedModelError, match="partial_rotary_factor"):
        reading.attention(keys_of(**where), RopeStyle.ADJACENT)


@pytest.mark.parametrize("fraction", [0.0, 1.5, -0.25, 0.01, 0.1, float("nan"), "1/4"])
def test_a_part_that_cannot_be(fraction: object) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json: (partial_rotary_factor|rope turns)"):
        model_of(NormKind.RMS, partial_rotary_factor=fraction)


LONGROPE = {"type": "su", "short_factor": [1.0, 1.5] * 8, "long_factor": [9.0] * 16}


def test_longrope_has_the_factors_and_the_length_of_the_original_context() -> None:
    config = model_of(NormKind.RMS, rope_scaling=LONGROPE, original_max_position_embeddings=512)
    rope = config.kinds[0].mixer.rope
    assert rope is not None
    assert isinstance(rope.scaling, FactorScaling)
    assert rope.scaling.factors == tuple(LONGROPE["short_factor"])
    assert rope.scaling.attention_factor == pytest.approx((1 + math.log(4) / math.log(512)) ** 0.5)
    assert config.max_seq_len == 512
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("factors", [[1.0] * 15, [1.0] * 15 + [0.0], [1.0] * 15 + ["2"], 3.0, None])
def test_factors_that_cannot_be(factors: object) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json: .*factor"):
        model_of(NormKind.RMS, rope_scaling={**LONGROPE, "short_factor": factors})


def test_all_of_a_head_is_no_part() -> None:
    assert model_of(NormKind.RMS, partial_rotary_factor=1.0) == model_of(NormKind.RMS)


@pytest.mark.parametrize("value", [True, 1, "yes", [0]])
def test_keys_are_refused_by_their_names(value: object) -> None:
    with pytest.raises(UnsupportedModelError, match=r"config\.json: parallel is .*, which is not supported"):
        reading.refuse(keys_of(parallel=value, other=None), "other", "parallel")


def test_keys_that_ask_for_nothing_are_not() -> None:
    reading.refuse(keys_of(parallel=False, other=None, softcap=0.0), "other", "parallel", "softcap", "absent")
