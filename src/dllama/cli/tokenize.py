"""`dllama tokenize`: a text to the ids that a tokenizer gives, and back."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from dllama.cli.text_input import STANDARD_INPUT, read_text
from dllama.errors import UsageError
from dllama.tokenizer import load_tokenizer
from dllama.tokenizer.pipeline import PipelineTokenizer
from dllama.tokenizer.stream import bytes_of

_BETWEEN_IDS = re.compile(r"[\s,\[\]]+")
_LONGEST_SHOWN = 40


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "tokenize",
        help="the token ids of a text, or back",
        description="Reads a text from standard input, every byte of it, and prints its token ids.",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="PATH",
        help="a .t file, tokenizer.json, tokenizer.model or GGUF file, or a directory of one",
    )
    parser.add_argument(
        "--no-special",
        action="store_true",
        help="add no special tokens, and take their names in the text as text; with --decode, leave them out",
    )
    parser.add_argument("--json", action="store_true", help="print the ids as a JSON list")
    parser.add_argument(
        "--decode", action="store_true", help="read ids from standard input, and print their text"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    if args.decode and args.json:
        raise UsageError(
            "--json is about the ids that are printed, and --decode prints a text: leave one away"
        )
    tokenizer = load_tokenizer(args.tokenizer)
    text = read_text(STANDARD_INPUT, drop_mark=False)
    if args.decode:
        _print_text(tokenizer, _read_ids(text, tokenizer), args.no_special)
        return
    ids = _ids_of(tokenizer, text, args.no_special)
    print(json.dumps(ids) if args.json else " ".join(map(str, ids)))


def _ids_of(tokenizer: PipelineTokenizer, text: str, no_special: bool) -> list[int]:
    if no_special:
        return tokenizer.encode(text)
    ids = tokenizer.encode(text, add_bos=tokenizer.add_bos, parse_special=True)
    return [*ids, tokenizer.eos_ids[0]] if tokenizer.add_eos else ids


def _read_ids(text: str, tokenizer: PipelineTokenizer) -> list[int]:
    """Ids with white space, commas or brackets between them. Raises UsageError for what is none of the tokenizer's."""
    words = [word for word in _BETWEEN_IDS.split(text) if word]
    for word in words:
        is_number = word.isascii() and word.isdecimal() and len(word) < 10
        if not is_number or int(word) >= tokenizer.vocab_size:
            raise UsageError(
                f"{word[:_LONGEST_SHOWN]!r} on standard input is no token id, which are numbers from 0 to "
                f"{tokenizer.vocab_size - 1}"
            )
    return [int(word) for word in words]


def _print_text(tokenizer: PipelineTokenizer, ids: list[int], no_special: bool) -> None:
    """The bytes of the text, whether they are UTF-8 or not; special tokens by name, but for what encoding added."""
    if tokenizer.add_bos and ids[:1] == [tokenizer.bos_id]:
        ids = ids[1:]
    if tokenizer.add_eos and ids[-1:] == [tokenizer.eos_ids[0]]:
        ids = ids[:-1]
    sys.stdout.flush()
    sys.stdout.buffer.write(bytes_of(tokenizer, ids, shows_special=not no_special))
    sys.stdout.buffer.flush()
