"""A tokenizer from whatever file or directory holds one."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Settings, Tokenizer
from dllama.tokenizer.pipeline import PipelineTokenizer
from dllama.tokenizer.settings_files import read_settings

_FILES = ("tokenizer.json", "tokenizer.model")


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory, a tokenizer.json, a tokenizer.model or a `.t` file.

    A tokenizer.model is a SentencePiece model (Llama 2) or tiktoken ranks (Llama 3); files are told apart by
    what is in them. Raises TokenizerError, naming the file, when there is none or it is damaged.
    """
    if path.is_dir():
        for name in _FILES:
            if (path / name).is_file():
                return load_tokenizer(path / name)
        raise TokenizerError(f"{path} has neither of {' and '.join(_FILES)}")
    try:
        return _load_json(path)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _load_json(path: Path) -> PipelineTokenizer:
    try:
        pipeline = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"no sound tokenizer.json ({error})") from error
    first_ids = pipeline.encode("", add_special_tokens=True).ids
    defaults = Settings(
        bos_id=first_ids[0] if first_ids else None, add_bos=bool(first_ids), eos_ids=(), chat_template=None
    )
    return PipelineTokenizer(pipeline, read_settings(path.parent, pipeline, defaults))
