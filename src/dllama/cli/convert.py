"""`dllama convert hf|tokenizer`: Hugging Face directories become `.m`, GGUF and `.t` files."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from dllama.checkpoint import (
    GGUF_WEIGHT_TYPES,
    ConvertProgress,
    check_convertible,
    convert_model,
    convert_to_gguf,
    open_checkpoint,
)
from dllama.checkpoint.m.config import extensions
from dllama.cli.console import note, progress_count
from dllama.cli.importance import NO_IMPORTANCE, importance_for
from dllama.cli.options import WEIGHT_TYPES
from dllama.dtypes import ElementType
from dllama.errors import UnsupportedModelError, UsageError
from dllama.formats.t_file import write_t_file
from dllama.node import default_threads
from dllama.tokenizer.convert import convert_tokenizer
from dllama.tokenizer.to_gguf import tokenizer_to_gguf

_WEIGHED_TYPES = (ElementType.Q40, ElementType.IQ4NL)
"""Fine enough a type loses too little for importance to matter."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("convert", help="write .m, GGUF and .t files")
    kinds = parser.add_subparsers(metavar="hf|tokenizer", required=True)
    model = kinds.add_parser("hf", help="a Hugging Face model directory to dllama_model_NAME_TYPE.m or .gguf")
    model.add_argument("directory", type=Path)
    model.add_argument(
        "type",
        choices=WEIGHT_TYPES,
        help="iq4nl, as small as q40 and better, goes into a GGUF file, which llama.cpp reads too",
    )
    model.add_argument("name")
    model.add_argument(
        "--compatible",
        action="store_true",
        help="fail where Distributed Llama would refuse the file, instead of writing one that only dllama reads",
    )
    model.add_argument(
        "--importance",
        metavar="TEXT",
        help="a text that the model reads to find out which weights matter, for q40 and iq4nl; none: they are taken to"
        " matter all the same (default: what was found before, else found with a text of dllama's own)",
    )
    model.set_defaults(command=_convert_model)
    tokenizer = kinds.add_parser("tokenizer", help="its tokenizer to dllama_tokenizer_NAME.t")
    tokenizer.add_argument("directory", type=Path)
    tokenizer.add_argument("name")
    tokenizer.set_defaults(command=_convert_tokenizer)
    for kind in (model, tokenizer):
        kind.add_argument("--output-dir", type=Path, default=Path(), metavar="DIR", help="default: here")


def _convert_model(args: argparse.Namespace) -> None:
    weight_type = ElementType.from_label(args.type)
    is_gguf = weight_type in GGUF_WEIGHT_TYPES
    suffix = "gguf" if is_gguf else "m"
    path = _output_path(args.output_dir, f"dllama_model_{args.name}_{args.type}.{suffix}")
    if is_gguf and not args.directory.is_dir():
        raise UsageError(f"{args.directory} is no directory: {args.type} is what the model of one becomes")
    is_weighed = weight_type in _WEIGHED_TYPES and args.directory.is_dir()
    if args.importance not in (None, NO_IMPORTANCE) and not is_weighed:
        raise UsageError("--importance is for a directory that becomes q40 or iq4nl: leave it out")
    is_known = args.importance is None  # what is found anew does not depend on what was found before
    with contextlib.closing(
        open_checkpoint(args.directory, weight_type, with_importance=is_known)
    ) as checkpoint:
        check_convertible(checkpoint, weight_type)
        if is_gguf:
            tokenizer = tokenizer_to_gguf(args.directory)
        else:
            _agree_to_extensions(extensions(checkpoint.config), args)
        if is_weighed:
            checkpoint.importance = importance_for(checkpoint, args.importance)
        with progress_count(f"writing {path.name}", "M weights", 1e6) as advance:

            def on_progress(progress: ConvertProgress) -> None:
                advance(progress.done_weights, progress.total_weights)

            n_threads = default_threads()
            if is_gguf:
                report = convert_to_gguf(checkpoint, path, args.name, tokenizer, on_progress, n_threads)
            else:
                report = convert_model(checkpoint, path, on_progress, n_threads)
    for line in report.notes:
        note(line)
    print(f"{path}: {report.n_weights / 1e6:.1f} M weights, {report.n_bytes / 1e6:.1f} MB")


def _agree_to_extensions(names: Sequence[str], args: argparse.Namespace) -> None:
    """Says what only dllama will read of the file, and asks where someone is there to answer. Raises
    UnsupportedModelError when the file is to be for others, UsageError when the answer is no."""
    if not names:
        return
    what = f"Distributed Llama refuses a .m file with {' and '.join(names)}"
    if args.compatible:
        raise UnsupportedModelError(
            f"{args.directory}: {what}; leave --compatible away to write it for dllama"
        )
    note(f"{what}: this one will be for dllama alone")
    if sys.stdin.isatty() and sys.stderr.isatty():
        print("write it? [Y/n] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("n", "no"):
            raise UsageError("nothing was written")


def _convert_tokenizer(args: argparse.Namespace) -> None:
    path = _output_path(args.output_dir, f"dllama_tokenizer_{args.name}.t")
    t_file = convert_tokenizer(args.directory)
    write_t_file(path, t_file)
    print(f"{path}: {len(t_file.tokens)} tokens")


def _output_path(directory: Path, name: str) -> Path:
    if "/" in name:
        raise UsageError(
            f"the name of {name} holds a slash: give a plain name, and the place with --output-dir"
        )
    if not directory.is_dir():
        raise UsageError(f"--output-dir {directory} is no directory: make it first")
    return directory / name
