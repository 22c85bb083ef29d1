"""What stands beside a tokenizer in a Hugging Face directory: first and end tokens, the chat template."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from dllama.errors import TokenizerError
from dllama.formats.plain_files import read_json_object, read_text_file
from dllama.tokenizer.base import Settings

_LARGEST_ID = (1 << 32) - 1
"""The largest that the tokenizers library can be asked for."""


def read_settings(directory: Path, pipeline: tokenizers.Tokenizer, defaults: Settings) -> Settings:
    """The settings of tokenizer_config.json, generation_config.json, config.json and the files of chat templates.

    Each file may be missing; what none of them says comes from `defaults`. Raises TokenizerError on a damaged
    one, or when a named token is not in the vocabulary.
    """
    tokenizer_config = _read_json(directory / "tokenizer_config.json")
    names = _read_json(directory / "special_tokens_map.json") | tokenizer_config
    configs = [directory / name for name in ("generation_config.json", "config.json")]
    bos_id = _named_id(directory, names, "bos_token", pipeline)
    eos_id = _named_id(directory, names, "eos_token", pipeline)
    eos_ids = [*([] if eos_id is None else [eos_id]), *_ids_of_first(configs, "eos_token_id", pipeline)]
    add_bos = tokenizer_config.get("add_bos_token")
    templates = _chat_templates(directory, tokenizer_config)
    usual = templates.pop("default", None) or next(iter(templates.values()), None)
    return Settings(
        bos_id=defaults.bos_id if bos_id is None else bos_id,
        add_bos=add_bos if isinstance(add_bos, bool) else defaults.add_bos,
        eos_ids=tuple(dict.fromkeys(eos_ids)) or defaults.eos_ids,
        chat_template=usual or defaults.chat_template,
        named_templates=templates,
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The object in the file; an empty one where there is no file."""
    return read_json_object(path, TokenizerError) if os.path.lexists(path) else {}


def _named_id(
    directory: Path, names: Mapping[str, Any], role: str, pipeline: tokenizers.Tokenizer
) -> int | None:
    """The id of `bos_token` or `eos_token`, which is a name or an object with the name as its content."""
    name = names.get(role)
    if isinstance(name, dict):
        name = name.get("content")
    if not isinstance(name, str) or not name:
        return None
    token_id = pipeline.token_to_id(name)
    if token_id is None:
        raise TokenizerError(f"{directory}: the {role} {reprlib.repr(name)} is not in the vocabulary")
    return int(token_id)


def _ids_of_first(paths: list[Path], key: str, pipeline: tokenizers.Tokenizer) -> list[int]:
    """The ids under `key`, one or a list, in the first of the files that has it."""
    for path in paths:
        value = _read_json(path).get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for token_id in ids:
            if type(token_id) is not int:
                raise TokenizerError(f"{path}: its {key} has {reprlib.repr(token_id)}, which is no id")
            if not 0 <= token_id <= _LARGEST_ID or pipeline.id_to_token(token_id) is None:
                raise TokenizerError(f"{path}: its {key} {reprlib.repr(token_id)} is not in the vocabulary")
        if ids:
            return ids
    return []


def _chat_templates(directory: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """The model's templates by name, the usual one as "default". Files go before what tokenizer_config.json has."""
    given = tokenizer_config.get("chat_template")
    if isinstance(given, list):
        given = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
    templates = dict(given) if isinstance(given, dict) else {"default": given}
    if not templates.get("default"):  # of models that take pictures as well
        templates["default"] = _read_json(directory / "chat_template.json").get("chat_template")
    files = {path.stem: path for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))}
    files["default"] = directory / "chat_template.jinja"
    for name, path in files.items():
        if os.path.lexists(path):
            templates[name] = read_text_file(path, TokenizerError)
    return {name: text for name, text in templates.items() if isinstance(name, str) and isinstance(text, str)}
