"""A Hugging Face config.json becomes a ModelConfig, by its family (families/)."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllama.checkpoint.hf.quantised import Quantisation, quantisation_of
from dllama.errors import ModelFileError, UnsupportedModelError
from dllama.families import Family, Keys, family_named, is_known_family, known_families
from dllama.formats.plain_files import read_json_object
from dllama.model import ModelConfig


@dataclasses.dataclass(frozen=True)
class HfModel:
    config: ModelConfig
    family: Family
    tied_head: bool
    """config.json says that the head is the embedding. Where one is stored, that one counts, as in transformers 5."""
    quantisation: Quantisation | None = None
    """What it says of weights that come quantised."""


def read_hf_config(path: Path) -> HfModel:
    """The model that the config.json at `path` describes.

    Raises ModelFileError when it cannot be read or contradicts itself, UnsupportedModelError when it asks for
    what dllama does not do; both name the file and the key.
    """
    values = read_json_object(path, ModelFileError)
    return model_from_hf(values, path)


def model_from_hf(values: Mapping[str, Any], path: Path) -> HfModel:
    """The model that `values`, config.json's object, describes; `path` is for messages. Raises as above."""
    whole, values = values, _of_text(values)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or not is_known_family(model_type):
        known = ", ".join(known_families())
        raise UnsupportedModelError(
            f"{path}: the family {reprlib.repr(model_type)} is not known; known are {known}"
        )
    said = quantisation_of(values, path) or quantisation_of(whole, path)
    family, keys = family_named(model_type), Keys(values, path)
    return HfModel(family.read(keys), family, keys.flag("tie_word_embeddings", family.ties_head), said)


def _of_text(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is said of the language model, where it is a part of one that sees or hears."""
    text = values.get("text_config")
    if not isinstance(text, dict) or "model_type" not in text:
        return values
    tied = {name: values[name] for name in ("tie_word_embeddings",) if name in values}
    return tied | text
