"""What families say of GGUF's names, against the `gguf` package, which is llama.cpp's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from dllama.checkpoint import open_checkpoint
from dllama.checkpoint.gguf.names import family_of_file, gguf_keys, gguf_name
from dllama.dtypes import ElementType
from dllama.families import Family, family_named
from dllama.formats.gguf import Metadata
from support.gguf_model import families_in_gguf, package_name, part_in_gguf
from support.local_cluster import GOLDENS

FAMILIES = [pytest.param(family, id=family.name) for family in families_in_gguf()]
OF_GOLDENS = [
    pytest.param(path.parent, family, id=path.parent.name)
    for path in sorted(GOLDENS.glob("*/config.json"))
    if (family := family_named(json.loads(path.read_text())["model_type"])).gguf
    and path.parent.name != "qwen3-moe-mixed"  # llama.cpp knows no dense layers among Qwen 3's experts
]


def known_keys() -> set[str]:
    sections = [section for section in vars(gguf.Keys).values() if isinstance(section, type)]
    names = [name for section in sections for name in vars(section).values() if isinstance(name, str)]
    return {name.removeprefix("{arch}.") for name in names if name.startswith("{arch}.")}


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_are_those_of_the_package(family: Family) -> None:
    assert {key.name for key in gguf_keys(family).values()} <= known_keys()


@pytest.mark.parametrize(("golden", "family"), OF_GOLDENS)
def test_tensors_are_called_as_in_the_package(golden: Path, family: Family) -> None:
    checkpoint = open_checkpoint(golden, ElementType.F32)
    for name in checkpoint.tensors:
        stored = part_in_gguf(family, checkpoint.config, name) or gguf_name(family, name)
        assert stored == package_name(family, name, checkpoint.config)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_leads_to_its_family(family: Family) -> None:
    """Or to the first of those that cannot be told apart."""
    assert family.gguf is not None
    values: dict[str, Any] = {}
    if family.gguf.told_by is not None:
        values[f"{family.gguf.architecture}.{family.gguf.told_by}"] = 1
    read = family_of_file(Metadata(Path("model.gguf"), values), family.gguf.architecture)
    assert read is not None
    assert read.gguf is not None
    assert (read.gguf.architecture, read.gguf.told_by) == (family.gguf.architecture, family.gguf.told_by)


def test_an_unknown_architecture_leads_nowhere() -> None:
    assert family_of_file(Metadata(Path("model.gguf"), {}), "mamba") is None
