"""Which files of a repository make up one model, by their names alone.

A repository often holds a model several times: GGUF files by the dozen, safetensors beside PyTorch's files, a copy in
Meta's or Mistral's own layout. One of them is wanted, with its config and tokenizer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence

from dllama.errors import UsageError
from dllama.formats.gguf.folder import PART, is_beside_a_model
from dllama.formats.safetensors import INDEX_FILE, SINGLE_FILE

USUAL_QUANTISATION = "Q4_K_M"
"""What is taken of a repository of GGUF files where nobody says which: the one that most repositories have, and that
loses little at 4.8 bits for each weight."""

_M_PART = re.compile(r"(dllama_model_.+)_[a-z]{2}")
_SETTINGS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|tekken)\.json"
    r"|chat_template\.(json|jinja)|additional_chat_templates/[^/]+\.jinja|merges\.txt|tokenizer\.model(\.v\d+)?"
    r"|params\.json|LICENSE[^/]*"
)
_CONSOLIDATED = re.compile(r"consolidated.*\.(safetensors|pth)")
_SHOWN = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """`files` in the order in which they are fetched: the weights last. `main`: the one of them to open, or "" for the
    folder. `joined`: where the weights are parts that have to be put together, the name of the whole."""

    files: tuple[str, ...]
    main: str = ""
    joined: str | None = None
    n_parts: int = 0


def select_files(names: Iterable[str], choice: str | None, where: str) -> Selection:
    """The files of one model out of all `names` of the repository `where`.

    `choice` is the name of a file or of a quantisation. Raises UsageError where it is not there, where there are
    several models, or none that can be read.
    """
    files = sorted(names)
    if choice is not None:
        return _chosen(files, choice, where)
    for find in (_of_distributed_llama, _of_safetensors):
        found = find(files)
        if found is not None:
            return found
    groups = _gguf_groups(files)
    if len(groups) == 1:
        return _gguf(next(iter(groups.values())))
    usual = _named(groups, USUAL_QUANTISATION)
    if len(usual) == 1:
        return _gguf(groups[usual[0]])
    if groups:
        raise UsageError(f"{where}: holds several models; add one of them, as {where}:{_listed(groups)}")
    consolidated = [name for name in files if _CONSOLIDATED.fullmatch(name)]
    if consolidated and "params.json" in files:
        return Selection(files=(*_settings(files), *consolidated))
    what = _listed([name for name in files if not name.startswith(".")]) or "nothing"
    raise UsageError(f"{where}: holds no model that can be read (GGUF, safetensors or .m), but {what}")


def _chosen(files: Sequence[str], choice: str, where: str) -> Selection:
    if choice in files:
        part = PART.fullmatch(choice)
        groups = _gguf_groups(files)
        if part and part[1] in groups:
            return _gguf(groups[part[1]])
        beside = tuple(name for name in files if name.endswith(".t")) if choice.endswith(".m") else ()
        return Selection(files=(*beside, choice), main=choice)
    groups = _gguf_groups(files)
    found = _named(groups, choice)
    if len(found) == 1:
        return _gguf(groups[found[0]])
    if found:
        raise UsageError(f"{where}:{choice} may be several models; say which: {_listed(found)}")
    if not groups:
        raise UsageError(f"{where}: has no file {choice}; it has {_listed(files)}")
    raise UsageError(f"{where}: has no {choice}; it has {_listed(groups)}")


def _named(groups: dict[str, list[str]], quantisation: str) -> list[str]:
    """Models whose name has the quantisation as a word of its own; of several the one that says nothing more."""
    word = re.compile(rf"(?:^|[-._/]){re.escape(quantisation)}(?=$|[-._/])", re.IGNORECASE)
    found = [name for name in groups if word.search(name)]
    plain = [name for name in found if len(name) == min(map(len, found))]
    return plain if len(plain) == 1 else found


def _of_distributed_llama(files: Sequence[str]) -> Selection | None:
    tokenizers = tuple(name for name in files if name.endswith(".t") and "/" not in name)
    models = [name for name in files if name.endswith(".m") and "/" not in name]
    if len(models) == 1:
        return Selection(files=(*tokenizers, models[0]), main=models[0])
    parts = [name for name in files if _M_PART.fullmatch(name)]
    wholes = {match[1] for name in parts if (match := _M_PART.fullmatch(name))}
    if len(wholes) != 1:
        return None
    whole = f"{wholes.pop()}.m"
    return Selection(files=(*tokenizers, *parts), main=whole, joined=whole, n_parts=len(parts))


def _of_safetensors(files: Sequence[str]) -> Selection | None:
    """All parts where there is an index of them, else the one file."""
    if "config.json" not in files:
        return None
    if INDEX_FILE in files:
        parts = [
            name
            for name in files
            if name.endswith(".safetensors")
            and "/" not in name
            and name != SINGLE_FILE
            and not _CONSOLIDATED.fullmatch(name)
        ]
        weights = [INDEX_FILE, *parts]
    elif SINGLE_FILE in files:
        weights = [SINGLE_FILE]
    else:
        return None
    return Selection(files=(*_settings(files), *weights))


def _settings(files: Sequence[str]) -> list[str]:
    return [name for name in files if _SETTINGS.fullmatch(name)]


def _gguf_groups(files: Sequence[str]) -> dict[str, list[str]]:
    """The parts of each model by its name, without what every part has of its own and without the suffix."""
    groups: dict[str, list[str]] = {}
    for name in files:
        base = name.rpartition("/")[2]
        if not name.lower().endswith(".gguf") or is_beside_a_model(base):
            continue
        part = PART.fullmatch(name)
        groups.setdefault(part[1] if part else name[: -len(".gguf")], []).append(name)
    return groups


def _gguf(parts: Sequence[str]) -> Selection:
    return Selection(files=tuple(parts), main=parts[0])


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
