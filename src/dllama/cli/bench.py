"""`dllama bench`: how fast a shape or a model runs here, beside what the machine allows."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from dllama import __version__
from dllama.bench import (
    SHAPES,
    Load,
    Speed,
    Spread,
    measure_speed,
    random_checkpoint,
    shape_named,
)
from dllama.checkpoint import WEIGHT_TYPES, Checkpoint, open_checkpoint
from dllama.cli import bench_fabric, bench_kernels
from dllama.cli.console import print_table, progress_count
from dllama.cli.devices import DeviceKind, make_cpu
from dllama.cli.options import add_model_flags, model_options, positive_int
from dllama.cli.session import cluster_options, connect
from dllama.dtypes import ElementType
from dllama.errors import UsageError
from dllama.formats.atomic import write_atomically
from dllama.node import peak_rss_bytes

_DEFAULT_SHAPE = "llama-3.2-1b"
_WEIGHT_TYPES = [dtype.label for dtype in ElementType if dtype is not ElementType.BF16]
"""Random weights have every type that there are kernels for."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("bench", help="measure speed")
    add_model_flags(parser, _WEIGHT_TYPES)
    parser.add_argument(
        "--shape",
        metavar="NAME",
        help=f"random weights of this shape (default {_DEFAULT_SHAPE}): {', '.join(SHAPES)}",
    )
    parser.add_argument("--layers", type=positive_int, metavar="N", help="only so many layers of the shape")
    parser.add_argument(
        "--experts", type=positive_int, metavar="N", help="only so many experts of the shape's mixtures"
    )
    parser.add_argument(
        "--prompt", type=positive_int, default=512, metavar="N", help="tokens (default %(default)s)"
    )
    parser.add_argument(
        "--gen", type=positive_int, default=64, metavar="N", help="tokens (default %(default)s)"
    )
    parser.add_argument(
        "--batch", type=positive_int, default=1, metavar="N", help="texts that decode together"
    )
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="positions in the cache before decoding"
    )
    parser.add_argument(
        "--repeat", type=positive_int, default=5, metavar="N", help="runs (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.set_defaults(command=run)
    kinds = parser.add_subparsers(metavar="[fabric | kernels]")
    bench_fabric.add_parser(kinds)
    bench_kernels.add_parser(kinds)


def run(args: argparse.Namespace) -> None:
    load = Load(
        n_prompt=args.prompt,
        n_gen=args.gen,
        n_sequences=args.batch,
        n_context=max(0, args.context),
        n_repeats=args.repeat,
    )
    options = model_options(args)
    if options.device is not DeviceKind.CPU:
        raise UsageError("bench compares this computer with its own limits: leave --device out")
    compute = make_cpu(args.nthreads, args.isa)
    with contextlib.closing(_checkpoint(args)) as checkpoint:
        name = args.shape or (str(args.model) if args.model else _DEFAULT_SHAPE)
        n_positions = max(load.n_prompt, load.n_context + load.n_gen)
        if n_positions > checkpoint.config.max_seq_len:
            raise UsageError(
                f"{n_positions} positions are more than the context of {name}, {checkpoint.config.max_seq_len}"
            )
        settings = cluster_options(
            options, checkpoint.model, n_positions, load.n_sequences, n_parallel=load.n_sequences
        )
        with contextlib.closing(connect(checkpoint, compute, settings)) as cluster:
            with progress_count("measuring", "runs") as advance:
                speed = measure_speed(cluster, compute, load, advance)
            values = _values(speed, load) | {
                "shape": name,
                "layers": checkpoint.config.n_layers,
                "weight_type": checkpoint.model.types.label,
                "isa": compute.isa,
                "n_threads": compute.n_threads,
                "n_nodes": cluster.n_nodes,
                "peak_rss_bytes": peak_rss_bytes(),
                "version": __version__,
            }
    if args.json:
        _write(args.json, values)
    print_table(_table(name, speed, values["n_nodes"]))


def _write(path: Path, values: dict[str, Any]) -> None:
    with write_atomically(path) as file:
        file.write(json.dumps(values, indent=1).encode())


def _checkpoint(args: argparse.Namespace) -> Checkpoint:
    weight_type = args.weights_float_type and ElementType.from_label(args.weights_float_type)
    if args.model and (args.shape or args.layers or args.experts):
        raise UsageError("--model brings its own shape: leave --shape, --layers and --experts out")
    if args.model and weight_type is not None and weight_type not in WEIGHT_TYPES:
        raise UsageError(
            f"nothing is quantised to {weight_type.label} here: it is for random weights (--shape)"
        )
    if args.model:
        return open_checkpoint(args.model, weight_type)
    return random_checkpoint(
        shape_named(args.shape or _DEFAULT_SHAPE, args.layers, weight_type or ElementType.Q40, args.experts)
    )


def _values(speed: Speed, load: Load) -> dict[str, Any]:
    """The JSON: medians under their names, least and most beside them."""
    values: dict[str, Any] = dataclasses.asdict(load)
    for name, value in vars(speed).items():
        if isinstance(value, Spread):
            values |= {name: value.median, f"{name}_min": value.min, f"{name}_max": value.max}
        else:
            values[name] = value
    return values


def _table(name: str, speed: Speed, n_nodes: int) -> Table:
    table = Table("", "median", "least", "most", "of the limit", title=name, title_justify="left")

    def row(what: str, spread: Spread, fraction: float) -> None:
        numbers = (f"{value:.2f}" for value in (spread.median, spread.min, spread.max))
        table.add_row(what, *numbers, f"{fraction:.0%}")

    row("prefill tokens/s", speed.prefill_tok_per_s, speed.prefill_fraction_of_peak)
    row("decode tokens/s", speed.decode_tok_per_s, speed.decode_fraction_of_read)
    table.add_section()
    table.add_row("prefill", f"{speed.prefill_gops:.0f} Gop/s", "", "", f"{speed.peak_gops:.0f} Gop/s")
    table.add_row("decode", f"{speed.decode_gb_per_s:.1f} GB/s", "", "", f"{speed.read_gb_per_s:.1f} GB/s")
    table.add_row("Python", f"{speed.python_overhead_fraction:.1%}", "", "", "")
    prefill, decode = speed.prefill_attention_fraction, speed.decode_attention_fraction
    table.add_row("attention", f"{prefill:.1%} of prefill, {decode:.1%} of decoding", "", "", "")
    if speed.context_times_reading is not None:
        table.add_row("context", f"{speed.context_times_reading:.2f} x reading it", "", "", "")
    if n_nodes > 1:
        for what, sent, received, sync_ms in (
            (
                "prefill",
                speed.prefill_sent_bytes_per_tok,
                speed.prefill_recv_bytes_per_tok,
                speed.prefill_sync_ms_per_tok,
            ),
            (
                "decode",
                speed.decode_sent_bytes_per_tok,
                speed.decode_recv_bytes_per_tok,
                speed.decode_sync_ms_per_tok,
            ),
        ):
            table.add_row(
                f"{what}, a token", f"{sent / 1e3:.1f} kB sent, {received / 1e3:.1f} kB received", "", "",
                f"{sync_ms:.2f} ms waited",
            )  # fmt: skip
    return table
