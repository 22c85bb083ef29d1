"""What matrices of a directory become in memory: what comes quantised stays as it is where there is a type for it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from dllama.checkpoint.expert_types import make_experts_agree
from dllama.checkpoint.recipes import Recipe
from dllama.dtypes import ElementType
from dllama.model import ModelConfig, ModelSpec, TensorTypes

DEFAULT_WEIGHT_TYPE = ElementType.IQ4NL
"""What weights that were trained so become when nobody asks for anything else."""

_log = logging.getLogger(__name__)


def as_they_come(config: ModelConfig, recipes: Mapping[str, Recipe], path: Path) -> ModelSpec:
    """Each matrix in the type that it comes in, or the one that loses least; `recipes` are all, by our names. Says
    which are not what they were."""
    types = {name: _memory_type(recipe) for name, recipe in recipes.items()}
    make_experts_agree(types)
    lossy = Counter(
        (recipe.stored_type, types[name])
        for name, recipe in recipes.items()
        if is_quantised(recipe) and types[name] is not recipe.dtype
    )
    for (stored_type, dtype), n in lossy.items():
        _log.warning(
            "%s: %d of %d matrices are %s, for which there is no kernel: in memory they are %s",
            path, n, len(recipes), stored_type, dtype.label,
        )  # fmt: skip
    return ModelSpec(config, TensorTypes.of_names(types, config.n_layers))


def is_quantised(recipe: Recipe) -> bool:
    """Whether it comes so, and is not stored in a type that models are trained in."""
    return recipe.dtype.is_blocked or recipe.stored_type != recipe.dtype.label


def _memory_type(recipe: Recipe) -> ElementType:
    """Whoever quantised the others left the ones that are not for a reason: these become q80 too."""
    if recipe.dtype.is_blocked:
        return recipe.dtype
    return ElementType.Q80 if recipe.n_cols % ElementType.Q80.block == 0 else ElementType.F16
