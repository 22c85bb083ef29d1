"""What stands beside a tokenizer in a Hugging Face directory: first and end tokens, the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Settings


def read_settings(directory: Path, pipeline: tokenizers.Tokenizer, defaults: Settings) -> Settings:
    """The settings of tokenizer_config.json, generation_config.json, config.json and chat_template.jinja.

    Each file may be missing; what none of them says comes from `defaults`. Raises TokenizerError on a damaged
    one, or when a named token is not in the vocabulary.
    """
    tokenizer_config = _read_json(directory / "tokenizer_config.json")
    names = _read_json(directory / "special_tokens_map.json") | tokenizer_config
    configs = [_read_json(directory / name) for name in ("generation_config.json", "config.json")]
    bos_id = _named_id(directory, names, "bos_token", pipeline)
    eos_id = _named_id(directory, names, "eos_token", pipeline)
    eos_ids = [*([] if eos_id is None else [eos_id]), *_ids_of_first(configs, "eos_token_id")]
    add_bos = tokenizer_config.get("add_bos_token")
    template = _chat_template(directory, tokenizer_config)
    return Settings(
        bos_id=defaults.bos_id if bos_id is None else bos_id,
        add_bos=add_bos if isinstance(add_bos, bool) else defaults.add_bos,
        eos_ids=tuple(dict.fromkeys(eos_ids)) or defaults.eos_ids,
        chat_template=template or defaults.chat_template,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{path} is not a JSON object")
    return values


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
        raise TokenizerError(f"{directory}: the {role} {name!r} is not in the vocabulary")
    return int(token_id)


def _ids_of_first(configs: list[dict[str, Any]], key: str) -> list[int]:
    """The ids under `key`, one or a list, in the first of the files that has it."""
    for config in configs:
        value = config.get(key)
        ids = [item for item in (value if isinstance(value, list) else [value]) if type(item) is int]
        if ids:
            return ids
    return []


def _chat_template(directory: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The text of chat_template.jinja, else the one in tokenizer_config.json (of several, the default)."""
    path = directory / "chat_template.jinja"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise TokenizerError(f"cannot read {path}: {error}") from error
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
