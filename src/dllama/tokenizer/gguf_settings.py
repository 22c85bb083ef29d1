"""First and end tokens and chat templates in the metadata of a GGUF file.

Keys: github.com/ggml-org/ggml, docs/gguf.md. Names of tokens that end a turn: llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import dataclasses
import logging

from dllama.formats.gguf import Metadata
from dllama.tokenizer.base import Settings
from dllama.tokenizer.gguf_tokens import GgufTokens, TokenType
from dllama.tokenizer.pipeline import is_control_name

_log = logging.getLogger(__name__)

_TEMPLATE = "tokenizer.chat_template"

_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)
_ENDS_AMONG_CONTROLS = (
    "</s>",
    "<eos>",
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
"""Elsewhere the first two may be words of HTML (Gemma 3). The others begin something else in models of code."""

_PART_OF_A_TURN = ("<|end|>", ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"}))
"""Does not end it where these are there too (gpt-oss, Solar)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """What counts where the file does not say."""

    bos_id: int | None = None
    eos_id: int | None = None
    add_bos: bool = False
    add_eos: bool = False


def read_gguf_settings(metadata: Metadata, tokens: GgufTokens, defaults: Defaults) -> Settings:
    """Raises ModelFileError when a value is of the wrong kind. Ids beyond the tokens are passed over, and logged."""
    bos_id = find_id(metadata, "bos", tokens, defaults.bos_id)
    eos_id = find_id(metadata, "eos", tokens, defaults.eos_id)
    others = (find_id(metadata, name, tokens) for name in ("eot", "eom"))
    eos_ids = [token_id for token_id in (eos_id, *others) if token_id is not None]
    add_bos = metadata.find("tokenizer.ggml.add_bos_token", bool)
    add_eos = metadata.find("tokenizer.ggml.add_eos_token", bool)
    templates = {
        key.removeprefix(f"{_TEMPLATE}."): metadata.need(key, str)
        for key in metadata
        if key.startswith(f"{_TEMPLATE}.")
    }
    usual = metadata.find(_TEMPLATE, str) or templates.pop("default", None)
    return Settings(
        bos_id=bos_id,
        add_bos=bos_id is not None and (defaults.add_bos if add_bos is None else add_bos),
        eos_ids=tuple(dict.fromkeys([*eos_ids, *_ends_by_name(tokens)])),
        add_eos=eos_id is not None and (defaults.add_eos if add_eos is None else add_eos),
        chat_template=usual or next(iter(templates.values()), None),
        named_templates=templates,
    )


def find_id(metadata: Metadata, name: str, tokens: GgufTokens, default: int | None = None) -> int | None:
    """The id of the `bos`, `eos`, `unknown` or another token."""
    key = f"tokenizer.ggml.{name}_token_id"
    found = metadata.find(key, int)
    token_id = default if found is None else found
    if token_id is None or 0 <= token_id < len(tokens.pieces):
        return token_id
    if found is not None:
        _log.warning(
            "%s: %s is %d, and there are %d tokens: passed over",
            metadata.path,
            key,
            found,
            len(tokens.pieces),
        )
    return None


def _ends_by_name(tokens: GgufTokens) -> list[int]:
    id_of = {tokens.pieces[i]: i for i in tokens.ids_of(TokenType.CONTROL)}
    found = {name: id_of[name] for name in _ENDS_AMONG_CONTROLS if name in id_of}
    id_of |= {tokens.pieces[i]: i for i in tokens.ids_of(TokenType.USER_DEFINED)}
    found |= {name: id_of[name] for name in _ENDS if name in id_of}
    if not id_of:  # a file of before there were types
        found |= {
            piece: i for i, piece in enumerate(tokens.pieces) if piece in _ENDS and is_control_name(piece)
        }
    part, others = _PART_OF_A_TURN
    if any(names <= found.keys() for names in others):
        found.pop(part, None)
    if "<|tool_response>" in found:  # Gemma 4, in which it is a word of HTML
        found.pop("</s>", None)
    return sorted(found.values())
