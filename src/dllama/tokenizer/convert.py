"""A tokenizer becomes a `.t` file that Distributed Llama's own program reads."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

from dllama.errors import TokenizerError
from dllama.formats.gguf import GgufFile
from dllama.formats.gguf.folder import gguf_file
from dllama.formats.plain_files import read_plain_file
from dllama.formats.t_file import LARGEST_BYTES, TFile
from dllama.tokenizer.base import Tokenizer
from dllama.tokenizer.gguf_tokens import read_scores
from dllama.tokenizer.load import (
    FileKind,
    kind_of,
    load_tokenizer,
    naming,
    tokenizer_file,
    tokenizer_of_t_file,
)
from dllama.tokenizer.pipeline import PieceStyle, PipelineTokenizer
from dllama.tokenizer.sentencepiece_model import parse_sentencepiece_model
from dllama.tokenizer.t_vocabulary import missing_bytes

logger = logging.getLogger(__name__)

PROBE = (
    "Hello, WORLD! It's 2024-12-31, 3.14159 and 1000000.\n\n\tdef f(x):\n        return x**2  # ok\r\n"
    "naïve café Ünïcödé Привет мир 你好，世界 こんにちは مرحبا 👩‍👩‍👧 <think>x</think> \u00a0 e\u0301 can't WE'LL   "
)
"""A text on which the known ways to cut text differ."""


def convert_tokenizer(source: Path) -> TFile:
    """The `.t` file of a tokenizer.json, a tokenizer.model (of any kind), a GGUF file, or a directory of one.

    Scores are those of the SentencePiece model, and else minus the id. A tokenizer without a first token gets
    its first control token in that place, which Distributed Llama needs to tell special tokens from others,
    and `add_bos` stays off. Logs a warning when the vocabulary alone does not tell how the model cuts text, so
    that ids from the `.t` file will differ. Raises TokenizerError as load_tokenizer does.
    """
    file = tokenizer_file(source)
    if gguf_file(file) is not None:
        tokenizer = load_tokenizer(file)
        scores = _scores_of_gguf(file, tokenizer)
    else:
        content = read_plain_file(file, TokenizerError, LARGEST_BYTES)
        kind = kind_of(content, file)
        if kind is FileKind.T:
            raise TokenizerError(f"{file} is a .t file already")
        tokenizer = load_tokenizer(source)
        with naming(file):
            scores = _scores(kind, content, tokenizer)
    t_file = TFile(
        tokens=_tokens(tokenizer),
        scores=scores,
        bos_id=_first_control(tokenizer) if tokenizer.bos_id is None else tokenizer.bos_id,
        add_bos=tokenizer.add_bos and tokenizer.bos_id is not None,
        eos_ids=tokenizer.eos_ids,
        chat_template=tokenizer.chat_template,
    )
    missing = missing_bytes(t_file.tokens) if tokenizer.style is PieceStyle.BYTE_LEVEL else []
    if missing:
        logger.warning(
            "%s: %d of the 256 bytes have no token (%s): characters that need them are left out of texts, as the"
            " model's own tokenizer does",
            file,
            len(missing),
            " ".join(f"{byte:02X}" for byte in missing),
        )
    if tokenizer_of_t_file(t_file, file).encode(PROBE) != tokenizer.encode(PROBE):
        logger.warning(
            "%s cuts text in a way that a .t file cannot hold: ids from the .t file will differ from the "
            "model's own; give %s as the tokenizer instead",
            file,
            source,
        )
    return t_file


def _tokens(tokenizer: PipelineTokenizer) -> list[bytes]:
    """Every id's bytes; bytes outside of text are named, as in a SentencePiece vocabulary (`<0x0A>`).

    Ids without a token get a name of their own: Distributed Llama takes no empty token.
    """
    return [
        tokenizer.token_in_t_file(token_id) or f"<|unused_{token_id}|>".encode()
        for token_id in range(tokenizer.vocab_size)
    ]


def _scores(kind: FileKind, content: bytes, tokenizer: PipelineTokenizer) -> list[float]:
    """The SentencePiece model's own, or what stands for them: the better, the earlier a token merges."""
    if kind is FileKind.SENTENCEPIECE:
        return parse_sentencepiece_model(content).scores
    scores = [-float(token_id) for token_id in range(tokenizer.vocab_size)]
    if kind is FileKind.JSON and tokenizer.style is PieceStyle.SENTENCEPIECE:
        for place, token_id in enumerate(_order_of_merges(content)):
            scores[token_id] = -float(place)
    return scores


def _scores_of_gguf(file: Path, tokenizer: PipelineTokenizer) -> list[float]:
    """The file's own where it has some that order merges, and else minus the id, as for a tokenizer.json."""
    with contextlib.closing(GgufFile(file)) as gguf, naming(file):
        if "tokenizer.ggml.scores" in gguf.metadata and tokenizer.style is PieceStyle.SENTENCEPIECE:
            return [float(score) for score in read_scores(gguf.metadata, tokenizer.vocab_size)]
    return [-float(token_id) for token_id in range(tokenizer.vocab_size)]


def _order_of_merges(content: bytes) -> list[int]:
    """The ids that the merges of a tokenizer.json make, first to last.

    In a byte-level vocabulary that is the order of the ids; of SentencePiece's, runs of spaces merge last.
    """
    model = json.loads(content)["model"]
    if "merges" not in model:
        raise TokenizerError(
            f"a tokenizer of type {model.get('type')} merges nothing, which a .t file cannot say"
        )
    made = dict.fromkeys("".join(m.split(" ") if isinstance(m, str) else m) for m in model["merges"])
    return [model["vocab"][piece] for piece in made]


def _first_control(tokenizer: Tokenizer) -> int | None:
    """The first of the special tokens that follow the ordinary ones, or of all where none follows."""
    return min(tokenizer.special_tokens.values(), default=None)
