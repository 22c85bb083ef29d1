"""`dllama download [NAME]`: gets a model from the Hugging Face Hub; without a name, lists those that are known."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from dllama import hub
from dllama.bench import shape_named
from dllama.cli.console import print_table
from dllama.cli.hub_models import fetch, look_up
from dllama.cli.info import NODE_COUNTS, largest_need
from dllama.cli.options import DEFAULT_MAX_SEQ_LEN
from dllama.dtypes import ElementType
from dllama.errors import UsageError
from dllama.hub import CATALOGUE, KnownModel, hub_name


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("download", help="get a model from the Hugging Face Hub, or list known ones")
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME|ORG/REPO[:FILE]",
        help="a name of the list, or a repository of the Hub; of several GGUF files in it one by its name or that of"
        " its quantisation, as Q4_K_M (without NAME: the list, and what each needs)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="where its files go (default: a folder that --model NAME finds)",
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    if args.name is None:
        print_table(_catalogue())
        return
    name = hub_name(args.name)
    if name is None:
        raise UsageError(
            f"{args.name} is no name of a model: give ORG/REPO as on huggingface.co, or a name of `dllama download`"
        )
    directory = hub.models_directory(os.environ)
    path = hub.downloaded(name, directory) if args.dir is None else None
    if path is None:
        repository, selection = look_up(name)
        path = fetch(name, repository, selection, args.dir or directory / name.repo)
    print(path)


def _catalogue() -> Table:
    table = Table(
        Column("name", no_wrap=True), Column("GB", justify="right"),
        *(Column(f"on {n}", justify="right") for n in NODE_COUNTS),
        title=f"what is downloaded, and GB of memory of the largest of 1, 2, 4, 8 nodes, context {DEFAULT_MAX_SEQ_LEN}",
        title_justify="left", box=SIMPLE_HEAD,
    )  # fmt: skip
    for name, model in CATALOGUE.items():
        table.add_row(name, f"{model.gigabytes:.1f}", *_memory(model))
    return table


def _memory(model: KnownModel) -> list[str]:
    """GB on the largest of 1, 2, 4, 8 nodes."""
    spec = shape_named(model.shape, None, ElementType.Q40)
    needs = [largest_need(spec, n, DEFAULT_MAX_SEQ_LEN, None) for n in NODE_COUNTS]
    return ["-" if need is None else f"{need.memory_bytes / 1e9:.1f}" for need in needs]
