"""Folders as the Hugging Face Hub's tools leave them: which one holds the model, and what a folder is that holds none.

The Hub's cache has a folder `models--ORG--NAME` for each model, with `snapshots/REVISION` and, under `refs/main`, the
revision that the branch main was when it was downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from dllama.errors import DllamaError, ModelFileError, UsageError
from dllama.formats.plain_files import read_text_file

_CACHED = re.compile(r"models--(?:[^/]+--)?([^/]+)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.gguf)(?<!\.m)")


def model_folder(path: Path) -> Path:
    """`path`, or the snapshot in it where it is a model's folder in the Hub's cache.

    Raises ModelFileError when the cache holds no whole snapshot.
    """
    snapshots = path / "snapshots"
    if not _CACHED.fullmatch(path.absolute().name) or (path / "config.json").exists() or not path.is_dir():
        return path
    main = path / "refs" / "main"
    if main.exists():
        revision = read_text_file(main, ModelFileError).strip()
        if re.fullmatch(r"[0-9A-Za-z][\w.-]*", revision) and (snapshots / revision).is_dir():
            return snapshots / revision
    found = sorted(folder for folder in snapshots.iterdir() if folder.is_dir()) if snapshots.is_dir() else []
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} snapshots, and refs/main names none of them" if found else "no snapshot"
    raise ModelFileError(
        f"{path}: has {what}; download the model again, or give a folder below {snapshots.name}"
    )


def model_name(path: Path) -> str:
    """What the model at `path` is called: the name of its file or folder, in the Hub's cache the model's own."""
    for folder in (path.absolute(), *path.absolute().parents[:2]):
        cached = _CACHED.fullmatch(folder.name)
        if cached and (folder / "snapshots").is_dir():
            return cached[1]
    return path.name if path.is_dir() else path.stem


def missing(path: Path) -> DllamaError:
    """The error for a model or tokenizer of which nothing is at `path`."""
    if _HUB_ID.fullmatch(str(path)) and not path.parent.exists():
        return UsageError(
            f"{path}: there is no such folder. It looks like a model's name on the Hugging Face Hub: `dllama download"
            f" {path}` gets it"
        )
    return ModelFileError(f"{path}: there is no such file or directory")


def what_instead(folder: Path) -> str | None:
    """What a folder without a config.json or without safetensors holds instead, as the end of a sentence; None when
    that is not known."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    for pattern, what in _INSTEAD:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            return what.format(found[0])
    return None


_INSTEAD = (
    (r"adapter_config\.json", "is an adapter (LoRA: {}), not a model; merge it into its base model first"),
    (
        r"pytorch_model.*\.(bin|pth|json)",
        "holds PyTorch's files ({}), which are not read; take the model's safetensors",
    ),
    (
        r"consolidated.*\.(pth|safetensors)",
        "holds the weights as Meta and Mistral publish them ({}), and no params.json; download that too",
    ),
    (r"model_index\.json", "is a pipeline of several models ({}), not a language model"),
    (r"models--.*", "is a cache of several models; give the folder of one, as {}"),
    (r".*\.(onnx|tflite|mlmodel|h5|msgpack)", "holds a model for another program ({}); take its safetensors"),
    (r".*\.(m|t)", "is no Hugging Face folder, and holds {}; give that file"),
)
