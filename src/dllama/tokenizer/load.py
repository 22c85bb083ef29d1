"""A tokenizer from whatever file or directory holds one."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
from collections.abc import Iterator
from pathlib import Path

import tokenizers

from dllama.errors import TokenizerError
from dllama.formats.gguf import GgufFile
from dllama.formats.gguf.folder import gguf_file
from dllama.formats.hf_folders import missing, model_folder
from dllama.formats.plain_files import read_plain_file
from dllama.formats.t_file import LARGEST_BYTES, TFile, is_t_file, read_t_file
from dllama.plain_text import plain_line
from dllama.tokenizer.base import Settings
from dllama.tokenizer.gguf_vocabulary import parse_gguf_tokenizer
from dllama.tokenizer.pipeline import Parsed, PipelineTokenizer, tokens_of
from dllama.tokenizer.sentencepiece_model import parse_sentencepiece_tokenizer
from dllama.tokenizer.settings_files import read_settings
from dllama.tokenizer.t_vocabulary import parse_t_vocabulary
from dllama.tokenizer.tekken import is_tekken, parse_tekken
from dllama.tokenizer.tiktoken_ranks import is_tiktoken_ranks, parse_tiktoken_ranks

_LONGEST_REASON = 300

_NAMES = ("tokenizer.json", "tokenizer.model", "tekken.json")


class FileKind(enum.Enum):
    T = ".t file"
    JSON = "tokenizer.json"
    TEKKEN = "tekken.json"
    TIKTOKEN = "tiktoken ranks"
    SENTENCEPIECE = "SentencePiece model"


def load_tokenizer(path: Path) -> PipelineTokenizer:
    """The tokenizer of a directory, a tokenizer.json, a tokenizer.model, a tekken.json, a `.t` or a GGUF file (the
    first part of a split one).

    A directory has the files of Hugging Face, or one GGUF file. A tokenizer.model is a SentencePiece model (Llama 2) or
    tiktoken ranks (Llama 3). Files are told apart by what is in them. Beside a file of the usual name,
    tokenizer_config.json and generation_config.json are read too. Raises TokenizerError, naming the file, when there is
    none or it is damaged, and ModelFileError for a GGUF file that is.
    """
    file = tokenizer_file(path)
    if gguf_file(file) is not None:
        with contextlib.closing(GgufFile(file)) as gguf, naming(file):
            return PipelineTokenizer(parse_gguf_tokenizer(gguf.metadata))
    content = read_plain_file(file, TokenizerError, LARGEST_BYTES)
    kind = kind_of(content, file)
    if kind is FileKind.T:
        return tokenizer_of_t_file(read_t_file(file), file)
    with naming(file):
        parsed = _PARSERS[kind](content)
    if file.name in _NAMES:
        settings = read_settings(file.parent, parsed.pipeline, parsed.settings)
        parsed = dataclasses.replace(parsed, settings=settings)
    with naming(file):
        return PipelineTokenizer(parsed)


def tokenizer_of_t_file(t_file: TFile, path: Path) -> PipelineTokenizer:
    """The tokenizer in a `.t` file that has been read; `path` is for its errors."""
    with naming(path):
        return PipelineTokenizer(parse_t_vocabulary(t_file))


def tokenizer_file(path: Path) -> Path:
    """`path`, or the file in it where it is a directory."""
    if not path.exists():
        raise TokenizerError(str(missing(path)))
    if not path.is_dir():
        if path.suffix == ".m":
            raise TokenizerError(f"{path}: is a model, not a tokenizer; give its .t file")
        return path
    path = model_folder(path)
    for name in _NAMES:
        if os.path.lexists(path / name):
            return path / name
    gguf = gguf_file(path)
    if gguf is None:
        raise TokenizerError(f"{path} has no tokenizer: neither {' nor '.join(_NAMES)} nor a GGUF file")
    return gguf


def kind_of(content: bytes, file: Path) -> FileKind:
    """What `file` is by what is in it; by its name as well where that is damaged."""
    if is_t_file(content):
        return FileKind.T
    if is_tekken(content):
        return FileKind.TEKKEN
    if content[:100].lstrip().startswith(b"{") or file.suffix == ".json":
        return FileKind.JSON
    if is_tiktoken_ranks(content):
        return FileKind.TIKTOKEN
    return FileKind.SENTENCEPIECE


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Puts the file's name before the errors of those who see only its content."""
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{file}: {error}") from error


@contextlib.contextmanager
def _library_faults() -> Iterator[None]:
    """Makes a TokenizerError of whatever the tokenizers library raises, which is nothing narrower than these two."""
    try:
        yield
    except BaseException as error:
        # Rust's is of no module.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"it is no sound tokenizer.json: {plain_line(str(error).strip(), _LONGEST_REASON)}; download it again"
        ) from error


def _parse_json(content: bytes) -> Parsed:
    with _library_faults():
        pipeline = tokenizers.Tokenizer.from_buffer(content)
        before_text = pipeline.encode("", add_special_tokens=True).ids[:1]
    settings = Settings(
        bos_id=before_text[0] if before_text else None,
        add_bos=bool(before_text),
        eos_ids=(),
        chat_template=None,
    )
    return Parsed(pipeline=pipeline, tokens=tokens_of(pipeline), settings=settings)


_PARSERS = {
    FileKind.JSON: _parse_json,
    FileKind.TEKKEN: parse_tekken,
    FileKind.TIKTOKEN: parse_tiktoken_ranks,
    FileKind.SENTENCEPIECE: parse_sentencepiece_tokenizer,
}
