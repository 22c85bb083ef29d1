"""`dllama convert hf|gguf|tokenizer|importance`: models of other programs become `.m`, GGUF and `.t` files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dllama.checkpoint import (
    Checkpoint,
    ConvertProgress,
    ConvertReport,
    FileKind,
    convert_model,
    convert_to_gguf,
    file_kind,
    open_checkpoint,
)
from dllama.checkpoint.gguf.header import with_unused_tokens
from dllama.checkpoint.m.config import extensions
from dllama.cli.console import note, progress_count
from dllama.cli.importance import NO_IMPORTANCE, WEIGHED_TYPES, importance_for
from dllama.cli.options import WEIGHT_TYPES
from dllama.dtypes import ElementType
from dllama.errors import TokenizerError, UnsupportedModelError, UsageError
from dllama.formats.gguf import NewValue
from dllama.formats.gguf.folder import gguf_file
from dllama.formats.t_file import TFile, write_t_file
from dllama.node import default_threads
from dllama.tokenizer.convert import convert_tokenizer
from dllama.tokenizer.to_gguf import tokenizer_to_gguf


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("convert", help="write .m, GGUF and .t files")
    kinds = parser.add_subparsers(metavar="hf|gguf|tokenizer|importance", required=True)
    directory = kinds.add_parser(
        "hf", help="a Hugging Face model directory to dllama_model_NAME_TYPE.m or .gguf"
    )
    directory.add_argument("model", type=Path, metavar="DIRECTORY")
    file = kinds.add_parser("gguf", help="a GGUF file to dllama_model_NAME_TYPE.m or .gguf")
    file.add_argument("model", type=Path, metavar="FILE", help="of a split one, the first part")
    for kind, is_gguf in ((directory, False), (file, True)):
        _add_model_flags(kind)
        kind.set_defaults(command=_convert_model, is_gguf=is_gguf)
    tokenizer = kinds.add_parser("tokenizer", help="a model's tokenizer to dllama_tokenizer_NAME.t")
    tokenizer.add_argument("directory", type=Path, metavar="DIRECTORY", help="or the tokenizer's own file")
    tokenizer.add_argument("name", metavar="NAME")
    tokenizer.set_defaults(command=_convert_tokenizer)
    importance = kinds.add_parser(
        "importance",
        help="find out which weights matter, and keep it beside a model that is quantised as it is run",
    )
    importance.add_argument("model", type=Path, metavar="MODEL", help="a directory or a GGUF file")
    importance.add_argument(
        "--importance", metavar="TEXT", help="that the model reads (default: one of dllama's own)"
    )
    importance.set_defaults(command=_find_importance)
    for kind in (directory, file, tokenizer):
        kind.add_argument("--output-dir", type=Path, default=Path(), metavar="DIR", help="default: here")


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "type",
        choices=WEIGHT_TYPES,
        metavar="TYPE",
        help=f"{', '.join(WEIGHT_TYPES)}. q40, q80, f16 and f32 go into a .m file where that can hold the model; iq4nl,"
        " as small as q40 and better, q4k and q6k into a GGUF file, which llama.cpp reads too",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--compatible",
        action="store_true",
        help="fail where Distributed Llama would refuse the file, instead of writing one that only dllama reads",
    )
    parser.add_argument(
        "--importance",
        metavar="TEXT",
        help="a text that the model reads to find out which weights matter, for types of 4 to 6 bits; none: they are"
        " taken to matter all the same (default: what was found before, else found with a text of dllama's own)",
    )


@dataclasses.dataclass(frozen=True)
class _Target:
    """What is written; `tokenizer` as the file says it, or in a file of its own."""

    kind: FileKind
    path: Path
    tokenizer: Mapping[str, NewValue] = dataclasses.field(default_factory=dict)
    t_path: Path | None = None
    t_file: TFile | None = None


def _convert_model(args: argparse.Namespace) -> None:
    """All that can be refused is, before work that takes long."""
    weight_type = ElementType.from_label(args.type)
    _check_place(args)
    _check_source(args)
    is_known = args.importance is None  # what is found anew does not depend on what was found before
    with contextlib.closing(open_checkpoint(args.model, weight_type, with_importance=is_known)) as checkpoint:
        target = _target(checkpoint, weight_type, args)
        is_weighed = checkpoint.quantises(*WEIGHED_TYPES)
        if args.importance not in (None, NO_IMPORTANCE) and not is_weighed:
            labels = ", ".join(dtype.label for dtype in WEIGHED_TYPES)
            raise UsageError(f"--importance is for weights that become one of {labels}: leave it out")
        if args.is_gguf:
            _say_what_is_lost_already(checkpoint)
        if is_weighed:
            checkpoint.importance = importance_for(checkpoint, args.importance)
        report = _write(checkpoint, target, args.name)
    for line in report.notes:
        note(line)
    print(f"{target.path}: {report.n_weights / 1e6:.1f} M weights, {report.n_bytes / 1e6:.1f} MB")
    if target.t_path is not None and target.t_file is not None:
        write_t_file(target.t_path, target.t_file)
        print(f"{target.t_path}: {len(target.t_file.tokens)} tokens")


def _check_source(args: argparse.Namespace) -> None:
    """Raises UsageError where the model is of the other kind."""
    if not args.model.exists():
        return  # whoever opens it says so
    if args.is_gguf and gguf_file(args.model) is None:
        raise UsageError(
            f"{args.model} is no GGUF file, and no folder of one: for a directory take `convert hf`"
        )
    if not args.is_gguf and not args.model.is_dir():
        raise UsageError(f"{args.model} is no directory: for a GGUF file take `convert gguf`")


def _target(checkpoint: Checkpoint, weight_type: ElementType, args: argparse.Namespace) -> _Target:
    kind = file_kind(checkpoint, weight_type)
    path = args.output_dir / f"dllama_model_{args.name}_{weight_type.label}.{kind}"
    if args.model.exists() and path.exists() and path.samefile(args.model):
        raise UsageError(f"{path} would be written over itself: take another NAME, or --output-dir")
    if kind is FileKind.GGUF:
        if args.compatible:
            raise UnsupportedModelError(
                f"{args.model}: becomes a GGUF file, which Distributed Llama does not read; leave --compatible away"
            )
        tokenizer = with_unused_tokens(tokenizer_to_gguf(args.model), checkpoint.config.vocab_size)
        return _Target(kind, path, tokenizer)
    _agree_to_extensions(extensions(checkpoint.config), args)
    if not args.is_gguf:
        return _Target(kind, path)
    try:
        t_file = convert_tokenizer(args.model)
    except TokenizerError as error:
        note(f"no .t file is written: {error}")
        return _Target(kind, path)
    return _Target(kind, path, t_path=args.output_dir / f"dllama_tokenizer_{args.name}.t", t_file=t_file)


def _write(checkpoint: Checkpoint, target: _Target, name: str) -> ConvertReport:
    with progress_count(f"writing {target.path.name}", "M weights", 1e6) as advance:

        def on_progress(progress: ConvertProgress) -> None:
            advance(progress.done_weights, progress.total_weights)

        n_threads = default_threads()
        if target.kind is FileKind.GGUF:
            return convert_to_gguf(checkpoint, target.path, name, target.tokenizer, on_progress, n_threads)
        return convert_model(checkpoint, target.path, on_progress, n_threads)


def _say_what_is_lost_already(checkpoint: Checkpoint) -> None:
    """Where matrices are quantised that were so before, to another type."""
    recipes = [
        checkpoint.recipe(name)
        for name, tensor in checkpoint.tensors.items()
        if tensor.dtype.is_blocked and checkpoint.recipe(name).dtype is not tensor.dtype
    ]
    floats = {dtype.label for dtype in ElementType if not dtype.is_blocked}
    stored = dict.fromkeys(recipe.stored_type for recipe in recipes if recipe.stored_type not in floats)
    if stored:
        note(
            f"weights are {', '.join(stored)} in {checkpoint.path}: what that lost stays lost, so an original in f16"
            " or bf16 makes a better file"
        )


def _agree_to_extensions(names: Sequence[str], args: argparse.Namespace) -> None:
    """Says what only dllama will read of the file, and asks where someone is there to answer. Raises
    UnsupportedModelError when the file is to be for others, UsageError when the answer is no."""
    if not names:
        return
    what = f"Distributed Llama refuses a .m file with {' and '.join(names)}"
    if args.compatible:
        raise UnsupportedModelError(f"{args.model}: {what}; leave --compatible away to write it for dllama")
    note(f"{what}: this one will be for dllama alone")
    if sys.stdin.isatty() and sys.stderr.isatty():
        print("write it? [Y/n] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("n", "no"):
            raise UsageError("nothing was written")


def _convert_tokenizer(args: argparse.Namespace) -> None:
    _check_place(args)
    path = args.output_dir / f"dllama_tokenizer_{args.name}.t"
    t_file = convert_tokenizer(args.directory)
    write_t_file(path, t_file)
    print(f"{path}: {len(t_file.tokens)} tokens")


def _find_importance(args: argparse.Namespace) -> None:
    """What `convert` does first, also for models that no file can hold."""
    is_known = args.importance is None
    with contextlib.closing(
        open_checkpoint(args.model, ElementType.Q80, with_importance=is_known)
    ) as checkpoint:
        if args.importance == NO_IMPORTANCE or (args.model.is_file() and gguf_file(args.model) is None):
            raise UsageError(
                "importance is found for a directory or a GGUF file, with a text that the model reads"
            )
        importance_for(checkpoint, args.importance)


def _check_place(args: argparse.Namespace) -> None:
    if "/" in args.name:
        raise UsageError(
            f"the name {args.name} holds a slash: give a plain name, and the place with --output-dir"
        )
    if not args.output_dir.is_dir():
        raise UsageError(f"--output-dir {args.output_dir} is no directory: make it first")
