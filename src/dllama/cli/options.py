"""Flags that several commands share, and what they are parsed into."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dllama.cli.addresses import WORKER_PORT, parse_address, peer_timeout
from dllama.cli.devices import DeviceKind, add_device_flag
from dllama.dtypes import ElementType
from dllama.engine import SamplingOptions
from dllama.errors import UsageError
from dllama.fabric import PEER_TIMEOUT_S, Job
from dllama.formats.atomic import check_writable
from dllama.model import Algorithm, CacheStorage
from dllama.node import Address, NodeSettings, default_threads

DEFAULTS = SamplingOptions()
DEFAULT_MAX_SEQ_LEN = 8192
WEIGHT_TYPES = ("q40", "iq4nl", "q4k", "q6k", "q80", "f16", "f32")
BUFFER_TYPES = ("q80", "f32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is needed to bring a model up on this node and its workers. None: decided by the model."""

    model: Path | None
    tokenizer: Path | None
    weight_type: ElementType | None
    wire: ElementType | None
    cache_type: ElementType | None
    max_seq_len: int | None
    workers: tuple[Address, ...]
    shares: tuple[float, ...]
    all_reduce: Algorithm
    peer_timeout_s: float
    device: DeviceKind
    n_threads: int
    node: NodeSettings
    job: Job | None


def add_model_flags(parser: argparse.ArgumentParser, weight_types: Sequence[str] = WEIGHT_TYPES) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", type=Path, metavar="PATH", help="a .m or GGUF file, or a Hugging Face directory"
    )
    group.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="a .t or GGUF file or a directory (default: the model's)",
    )
    group.add_argument(
        "--weights-float-type",
        choices=weight_types,
        help="quantise to: a directory (default iq4nl), a GGUF file (default: the types that it has)",
    )
    group.add_argument(
        "--buffer-float-type",
        choices=BUFFER_TYPES,
        help="what travels (default q80 for weights in blocks, else f32)",
    )
    group.add_argument(
        "--max-seq-len", type=positive_int, metavar="N", help="context (default: the model's, at most 8192)"
    )
    group.add_argument(
        "--kv-cache-type",
        choices=("f16", "f32", "q80"),
        help="keys and values (default: f32 beside f32 buffers, else f16; q80 takes 53%% of f16's memory)",
    )
    group = parser.add_argument_group("cluster")
    add_workers_flags(group)
    group.add_argument(
        "--shares",
        nargs="+",
        type=float,
        default=(),
        metavar="X",
        help="relative part of each node, root first (default: equal)",
    )
    group.add_argument(
        "--all-reduce",
        choices=[str(algorithm) for algorithm in Algorithm],
        default=str(Algorithm.AUTO),
        help="how partial sums are brought together (default: what is quickest by measurement)",
    )
    add_node_flags(parser)


def add_node_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of root and worker alike."""
    group = parser.add_argument_group("node")
    add_threads_flag(group)
    add_device_flag(group)
    group.add_argument(
        "--kv-cache-storage",
        choices=("ram", "disk", "disc"),
        default="ram",
        help="where keys and values live",
    )
    group.add_argument(
        "--kv-cache-dir",
        type=Path,
        metavar="DIR",
        help="for disk (default: the system's temporary directory)",
    )


def add_workers_flags(flags: argparse._ActionsContainer) -> None:
    """Who the other nodes are, and how long they may be silent."""
    flags.add_argument(
        "--workers",
        nargs="+",
        type=parse_address,
        default=(),
        metavar="HOST:PORT",
        help=f"nodes that run dllama worker, with spaces between them (port {WORKER_PORT} where none is given)",
    )
    flags.add_argument(
        "--peer-timeout",
        type=peer_timeout,
        default=PEER_TIMEOUT_S,
        metavar="S",
        help="seconds of silence after which a node counts as lost, idle or not (default %(default)g)",
    )


def add_threads_flag(flags: argparse._ActionsContainer) -> None:
    flags.add_argument(
        "--nthreads",
        type=positive_int,
        default=default_threads(),
        metavar="N",
        help="default: one for each fast core (%(default)s)",
    )


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help=f"0 is greedy (default: for chats the model's own, else {DEFAULTS.temperature})",
    )
    group.add_argument(
        "--topp",
        type=float,
        metavar="X",
        help=f"nucleus (default: for chats the model's own, else {DEFAULTS.topp})",
    )
    group.add_argument(
        "--topk",
        type=int,
        metavar="N",
        help="most likely tokens only (default: for chats the model's own, else no limit)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed draws the same text")
    group.add_argument(
        "--speculate",
        type=count,
        default=0,
        metavar="N",
        help="draft up to N tokens a step from what repeats; the text stays the same (default: off)",
    )


def model_options(args: argparse.Namespace) -> ModelOptions:
    """Raises UsageError for flags that contradict each other."""
    for address in args.workers:
        if args.workers.count(address) > 1:
            raise UsageError(f"--workers names {address} more than once: each node needs a worker of its own")
    return ModelOptions(
        model=args.model,
        tokenizer=args.tokenizer,
        weight_type=_element_type(args.weights_float_type),
        wire=_element_type(args.buffer_float_type),
        cache_type=_element_type(args.kv_cache_type),
        max_seq_len=args.max_seq_len,
        workers=tuple(args.workers),
        shares=tuple(args.shares),
        all_reduce=Algorithm(args.all_reduce),
        peer_timeout_s=args.peer_timeout,
        device=DeviceKind(args.device),
        n_threads=args.nthreads,
        node=node_settings(args),
        job=args.job,
    )


def node_settings(args: argparse.Namespace) -> NodeSettings:
    storage = CacheStorage.RAM if args.kv_cache_storage == "ram" else CacheStorage.DISK
    return NodeSettings(kv_storage=storage, kv_directory=args.kv_cache_dir)


def sampling_options(
    args: argparse.Namespace, suggested: Mapping[str, float] = MappingProxyType({})
) -> SamplingOptions:
    """What the flags say; where they say nothing, what the model's makers suggest (see read_suggested_sampling)."""
    flags = {"temperature": args.temperature, "topp": args.topp, "topk": args.topk, "seed": args.seed}
    given = {name: value for name, value in flags.items() if value is not None}
    return SamplingOptions(**{**_as_options(suggested), **given})


def _as_options(suggested: Mapping[str, float]) -> dict[str, Any]:
    names = {"top_p": "topp", "top_k": "topk"}
    options: dict[str, Any] = {names.get(name, name): value for name, value in suggested.items()}
    if "topk" in options:
        options["topk"] = max(0, int(options["topk"]))  # -1 is no limit as well
    return options


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return int(text)


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 up")
    return int(text)


def output_path(text: str) -> Path:
    """A file that can be written, as far as one can tell before the work that fills it."""
    path = Path(text)
    try:
        check_writable(path)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def check_outputs_differ(outputs: Mapping[str, Path | None]) -> None:
    """Raises UsageError when two flags name one file, of which the second would replace the first; pipes and devices
    take both."""
    flag_of: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        first = flag_of.setdefault(path.resolve(), flag)
        if first != flag:
            raise UsageError(f"{first} and {flag} name the same file, {path}: give each its own")


def shares_for(options: ModelOptions) -> tuple[float, ...]:
    """One share for each node. Raises UsageError when their number does not match."""
    n_nodes = options.job.n_ranks if options.job else 1 + len(options.workers)
    shares = options.shares or (1.0,) * n_nodes
    if len(shares) != n_nodes:
        raise UsageError(
            f"--shares has {len(shares)} numbers for {n_nodes} nodes; give one for each, the root's first"
        )
    return shares


def _element_type(label: str | None) -> ElementType | None:
    return None if label is None else ElementType.from_label(label)
