"""`dllama info MODEL`: what a model is, how large its tensors are, and what 1, 2, 4, 8 nodes need."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from dllama.checkpoint import ModelDescription, describe, open_checkpoint
from dllama.cli.console import print_table
from dllama.cli.options import BUFFER_TYPES, DEFAULT_MAX_SEQ_LEN, WEIGHT_TYPES, positive_int
from dllama.cli.session import max_seq_len_for, wire_type
from dllama.dtypes import ElementType
from dllama.model import ModelSpec
from dllama.node import STEP_TIMEOUT_S, MemoryNeed, default_cache_type, memory_need, session_shape
from dllama.sharding import largest_node_count, plan_spans

NODE_COUNTS = (1, 2, 4, 8)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("info", help="describe a model and the memory that it needs")
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--weights-float-type", choices=WEIGHT_TYPES, help="for a directory (default iq4nl) or a GGUF file"
    )
    parser.add_argument("--buffer-float-type", choices=BUFFER_TYPES)
    parser.add_argument(
        "--max-seq-len",
        type=positive_int,
        metavar="N",
        help=f"context (default: the model's, at most {DEFAULT_MAX_SEQ_LEN})",
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    weight_type = args.weights_float_type and ElementType.from_label(args.weights_float_type)
    with contextlib.closing(open_checkpoint(args.model, weight_type)) as checkpoint:
        model = describe(checkpoint)
    print(model.path)
    print_table(_header_table(model))
    print_table(_tensor_table(model))
    wire = args.buffer_float_type and ElementType.from_label(args.buffer_float_type)
    print_table(_memory_table(model.model, max_seq_len_for(args.max_seq_len, model.model.config), wire))


def _header_table(model: ModelDescription) -> Table:
    table = Table("header", "", box=SIMPLE_HEAD)
    if model.header is not None:
        for name, value in model.header.items():
            table.add_row(name, value)
        table.add_section()
    for name, number in _numbers(model.model):
        table.add_row(name, "-" if number is None else str(number))
    return table


def _numbers(model: ModelSpec) -> Iterator[tuple[str, object]]:
    """The model's own, then those of each kind of layer."""
    config = model.config
    for name in ("family", "dim", "n_layers", "vocab_size", "max_seq_len", "norm_eps"):
        yield name, getattr(config, name)
    for name, usual in (("embedding_scale", 1), ("logit_scale", 1), ("logit_soft_cap", None)):
        if getattr(config, name) != usual:
            yield name, getattr(config, name)
    yield "weight_type", model.types.label
    for number, kind in enumerate(config.kinds):
        if len(config.kinds) > 1:
            yield "layers", _ranges([i for i, of in enumerate(config.layer_kinds) if of == number])
        for part in (kind.mixer, kind.feed_forward):
            for name, value in vars(part).items():
                if name in ("rope", "shared") and value is not None:
                    yield from ((f"{name}_{key}", of_part) for key, of_part in vars(value).items())
                else:
                    yield name, value
        yield "norm", kind.norm
        yield "norms_after", kind.norms_after


def _ranges(numbers: Sequence[int]) -> str:
    """`0-4, 6, 8-10`"""
    edges = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return ", ".join(
        str(first) if first == last else f"{first}-{last}" for first, last in zip(edges, ends, strict=True)
    )


def _tensor_table(model: ModelDescription) -> Table:
    """One row for each kind of tensor: the layers are alike."""
    table = Table(
        Column("tensor", no_wrap=True), "rows", "columns", "type", "file", "count", "MB held", box=SIMPLE_HEAD
    )
    kinds: dict[tuple[str, int, int, str, str], list[int]] = {}
    for tensor in model.tensors:
        name = re.sub(r"^layers\.\d+\.", "layers.*.", tensor.name)
        kind = (name, tensor.n_rows, tensor.n_cols, tensor.dtype.label, tensor.stored_type)
        kinds.setdefault(kind, []).append(tensor.n_bytes)
    for (name, n_rows, n_cols, dtype, stored), sizes in kinds.items():
        is_read_by_row = name == "embedding"
        table.add_row(
            name,
            str(n_rows),
            str(n_cols),
            "-" if is_read_by_row else dtype,
            f"{stored} (embedding)" if name == "head" and model.tied_head else stored,
            str(len(sizes)),
            "-" if is_read_by_row else f"{sum(sizes) / 1e6:.2f}",
        )
    table.add_section()
    table.add_row("all", "", "", "", "", str(len(model.tensors)), f"{model.n_bytes / 1e6:.2f}")
    table.caption = f"{model.n_weights / 1e6:.1f} M weights"
    if model.n_weights_of_token < model.n_weights:
        table.caption += f", {model.n_weights_of_token / 1e6:.1f} M of them for each token"
    table.caption += "; rows of the embedding are read from the file"
    return table


def _memory_table(model: ModelSpec, max_seq_len: int, wire: ElementType | None) -> Table:
    table = Table(
        "nodes", "weights MB", "KV cache MB", "other MB", "in all MB",
        title=f"memory of the largest node, context {max_seq_len}", title_justify="left", box=SIMPLE_HEAD,
    )  # fmt: skip
    for n_nodes in NODE_COUNTS:
        need = largest_need(model, n_nodes, max_seq_len, wire)
        if need is None:
            table.add_row(str(n_nodes), f"at most {largest_node_count(model.axes)} nodes", "", "", "")
            continue
        parts = (need.weight_bytes, need.kv_bytes, need.other_bytes, need.memory_bytes)
        table.add_row(str(n_nodes), *(f"{n_bytes / 1e6:.1f}" for n_bytes in parts))
    return table


def largest_need(
    model: ModelSpec, n_nodes: int, max_seq_len: int, wire: ElementType | None
) -> MemoryNeed | None:
    """What the node that needs most of it needs of memory, of so many equal nodes; None: there cannot be as many."""
    if n_nodes > largest_node_count(model.axes):
        return None
    wire = wire_type(wire, model)
    plan = plan_spans(model.axes, [1.0] * n_nodes)
    cache, limits = session_shape(
        model,
        plan,
        max_seq_len=min(max_seq_len, model.config.max_seq_len),
        n_sequences=1,
        n_parallel=1,
        wire=wire,
        cache_type=default_cache_type(wire),
        timeout_s=STEP_TIMEOUT_S,
    )
    needs = [memory_need(model, plan, rank, cache, limits, False) for rank in range(n_nodes)]
    return max(needs, key=lambda need: need.memory_bytes)
