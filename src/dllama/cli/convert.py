"""`dllama convert hf|tokenizer`: Hugging Face directories become `.m` and `.t` files."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from dllama.checkpoint import ConvertProgress, convert_model, open_checkpoint
from dllama.cli.console import note, progress_count
from dllama.cli.options import WEIGHT_TYPES
from dllama.dtypes import ElementType
from dllama.errors import UsageError
from dllama.formats.t_file import write_t_file
from dllama.tokenizer.convert import convert_tokenizer


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("convert", help="write .m and .t files")
    kinds = parser.add_subparsers(metavar="hf|tokenizer", required=True)
    model = kinds.add_parser("hf", help="a Hugging Face model directory to dllama_model_NAME_TYPE.m")
    model.add_argument("directory", type=Path)
    model.add_argument("type", choices=WEIGHT_TYPES)
    model.add_argument("name")
    model.set_defaults(command=_convert_model)
    tokenizer = kinds.add_parser("tokenizer", help="its tokenizer to dllama_tokenizer_NAME.t")
    tokenizer.add_argument("directory", type=Path)
    tokenizer.add_argument("name")
    tokenizer.set_defaults(command=_convert_tokenizer)
    for kind in (model, tokenizer):
        kind.add_argument("--output-dir", type=Path, default=Path(), metavar="DIR", help="default: here")


def _convert_model(args: argparse.Namespace) -> None:
    path = _output_path(args.output_dir, f"dllama_model_{args.name}_{args.type}.m")
    weight_type = ElementType.from_label(args.type)
    with (
        contextlib.closing(open_checkpoint(args.directory, weight_type)) as checkpoint,
        progress_count(f"writing {path.name}", "M weights", 1e6) as advance,
    ):

        def on_progress(progress: ConvertProgress) -> None:
            advance(progress.done_weights, progress.total_weights)

        report = convert_model(checkpoint, path, on_progress)
    for line in report.notes:
        note(line)
    print(f"{path}: {report.n_weights / 1e6:.1f} M weights, {report.n_bytes / 1e6:.1f} MB")


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
