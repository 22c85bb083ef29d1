"""`dllama bench kernels`: each kernel by itself, for every instruction set of this computer."""

from __future__ import annotations

import argparse
import json

from rich.table import Table

from dllama.bench import KernelSpeed, measure_kernels, n_kernels
from dllama.cli.console import print_table, progress_count
from dllama.cli.devices import make_cpu
from dllama.cli.options import add_threads_flag, output_path
from dllama.formats.atomic import write_atomically
from dllama.kernels import supported_isas


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "kernels", help="each kernel by itself, for every instruction set of this computer"
    )
    add_threads_flag(parser)
    parser.add_argument("--json", type=output_path, metavar="FILE", help="write the numbers")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    isas = [args.isa] if args.isa else supported_isas()
    speeds: list[KernelSpeed] = []
    with progress_count("measuring", "kernels") as advance:
        for isa in isas:
            for speed in measure_kernels(make_cpu(args.nthreads, isa)):
                speeds.append(speed)
                advance(len(speeds), len(isas) * n_kernels())
    if args.json:
        values = {"n_threads": args.nthreads, "kernels": [vars(speed) for speed in speeds]}
        with write_atomically(args.json) as file:
            file.write(json.dumps(values, indent=1).encode())
    for isa in isas:
        print_table(_table(isa, [speed for speed in speeds if speed.isa == isa]))


def _table(isa: str, speeds: list[KernelSpeed]) -> Table:
    table = Table("", "rows", "us", "GB/s", "Gop/s", "of the limit", title=isa, title_justify="left")
    for speed in speeds:
        gops = f"{speed.gops:.1f}" if speed.gops else ""
        numbers = (f"{speed.us:.1f}", f"{speed.gb_per_s:.1f}", gops, f"{speed.fraction:.0%}")
        table.add_row(speed.kernel, str(speed.n_rows), *numbers)
    return table
