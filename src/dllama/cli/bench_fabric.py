"""`dllama bench fabric`: what the links between the nodes give, and which one is slow."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.table import Table

from dllama.bench import SHAPES, FabricReport, measure_fabric, shape_named
from dllama.cli.console import note, print_table, progress_count
from dllama.cli.options import add_node_flags, add_workers_flags, output_path
from dllama.dtypes import ElementType
from dllama.formats.atomic import write_atomically


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser("fabric", help="latency and bandwidth between the nodes")
    add_workers_flags(parser)
    parser.add_argument(
        "--shape",
        default="llama-3.1-8b",
        metavar="NAME",
        help=f"whose messages to measure (default %(default)s): {', '.join(SHAPES)}",
    )
    parser.add_argument("--json", type=output_path, metavar="FILE", help="write the numbers")
    add_node_flags(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    config = shape_named(args.shape, None, ElementType.Q40).config
    with progress_count("measuring", "links") as advance:
        report = measure_fabric(args.workers, args.job, config, args.peer_timeout, advance)
    if args.json:
        with write_atomically(args.json) as file:
            file.write(json.dumps(dataclasses.asdict(report) | {"shape": args.shape}, indent=1).encode())
    print_table(_pairs(report))
    print_table(_collectives(report, args.shape))
    print(f"slow: {report.slow}" if report.slow else "no link is much slower than the others")
    for name, faults in zip(report.names, report.faults, strict=True):
        for fault in faults:
            note(f"{name}: {fault}")


def _pairs(report: FabricReport) -> Table:
    table = Table(
        "between", "and", "latency us", "Mbit/s there", "and back", title="links", title_justify="left"
    )
    for pair in report.pairs:
        table.add_row(
            report.names[pair.first],
            report.names[pair.second],
            f"{pair.latency_s * 1e6:.0f}",
            f"{pair.there_mbit:.0f}",
            f"{pair.back_mbit:.0f}",
        )
    return table


def _collectives(report: FabricReport, shape: str) -> Table:
    table = Table("all nodes", "bytes", "median ms", "least", "most", title=shape, title_justify="left")
    for time in report.collectives:
        milliseconds = (f"{value * 1e3:.3f}" for value in (time.median_s, time.least_s, time.most_s))
        table.add_row(time.name, str(time.n_bytes), *milliseconds)
    table.add_section()
    for name in report.measured_token_s:
        measured, modelled = report.measured_token_s[name] * 1e3, report.modelled_token_s[name] * 1e3
        table.add_row(
            f"network of a decoded token, {name}", "", f"{measured:.2f}", "", f"model {modelled:.2f}"
        )
    return table
