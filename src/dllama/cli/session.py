"""Puts a model together for a command: files, tokenizer, this node, its workers, the engine."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dllama.checkpoint import DEFAULT_WEIGHT_TYPE, FOUR_BITS, Checkpoint, is_convertible, open_checkpoint
from dllama.cli.console import note, progress_count
from dllama.cli.devices import DeviceKind, make_device
from dllama.cli.options import DEFAULT_MAX_SEQ_LEN, ModelOptions, shares_for
from dllama.dtypes import ElementType
from dllama.engine import Engine
from dllama.errors import TokenizerError, UsageError
from dllama.formats.gguf.folder import gguf_file
from dllama.kernels import Device
from dllama.model import ModelConfig, ModelSpec
from dllama.node import Cluster, ClusterOptions, default_cache_type
from dllama.tokenizer import Tokenizer, load_tokenizer
from dllama.tokenizer.fit import check_vocab

_USUAL_TEXT = 2048
"""Tokens of a conversation that is not unusually long; where several are longer, the engine lets some wait."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A model that is ready to compute."""

    config: ModelConfig
    tokenizer: Tokenizer
    cluster: Cluster
    max_seq_len: int
    load_s: float

    def new_engine(self) -> Engine:
        """For one caller, as there is one cache. The server has a service of its own instead."""
        return Engine(self.cluster, self.tokenizer, max_seq_len=self.max_seq_len)


@contextlib.contextmanager
def open_session(
    options: ModelOptions, isa: str | None, n_texts: int = 1, on_note: Callable[[str], None] = note
) -> Iterator[Session]:
    """Loads the model onto all nodes; closes everything at the end, whatever happens.

    `n_texts` are at work at once: there is room in the cache for two of them at their longest, and for more
    where that is not much. `on_note` gets lines about what was chosen.
    """
    path = model_path(options)
    if options.model is None:
        on_note(
            "no --model given: this is dllama's own small demo model. For a real one, download a GGUF file or a "
            "Hugging Face model directory (Llama, Mistral, Qwen, Gemma 3) and give it with --model"
        )
    with contextlib.closing(open_checkpoint(path, options.weight_type)) as checkpoint:
        blind = blind_note(checkpoint, options.weight_type)
        if options.model is not None and blind is not None:
            on_note(blind)
        config = checkpoint.config
        tokenizer = load_tokenizer(tokenizer_path(options.tokenizer, path, on_note))
        check_vocab(tokenizer, config.vocab_size)
        max_seq_len = max_seq_len_for(options.max_seq_len, config)
        settings = cluster_options(
            options, checkpoint.model, max_seq_len, n_sequences(n_texts, max_seq_len), n_texts
        )
        device = make_device(options.device, options.n_threads, isa)
        if options.max_seq_len is None:
            on_note(f"context: {max_seq_len} tokens of the model's {config.max_seq_len} (--max-seq-len)")
        start = time.perf_counter()
        with contextlib.closing(connect(checkpoint, device, settings, on_note)) as cluster:
            yield Session(
                config=config,
                tokenizer=tokenizer,
                cluster=cluster,
                max_seq_len=max_seq_len,
                load_s=time.perf_counter() - start,
            )


def cluster_options(
    options: ModelOptions, model: ModelSpec, max_seq_len: int, n_sequences: int = 1, n_parallel: int = 1
) -> ClusterOptions:
    """Raises UsageError when there are not as many shares as nodes."""
    wire = wire_type(options.wire, model, options.device)
    return ClusterOptions(
        workers=options.workers,
        shares=shares_for(options),
        max_seq_len=max_seq_len,
        n_sequences=n_sequences,
        n_parallel=n_parallel,
        wire=wire,
        cache_type=options.cache_type or default_cache_type(wire),
        node=options.node,
        job=options.job,
        all_reduce=options.all_reduce,
        peer_timeout_s=options.peer_timeout_s,
    )


def connect(
    checkpoint: Checkpoint, device: Device, options: ClusterOptions, on_note: Callable[[str], None] = note
) -> Cluster:
    """See Cluster.open."""
    with progress_count("loading", "MB", 1e6, on_note) as on_progress:
        return Cluster.open(checkpoint, device, options, on_progress)


def blind_note(checkpoint: Checkpoint, asked_for: ElementType | None) -> str | None:
    """What is said where weights are quantised to four bits, and nothing is known of how much each matters."""
    weight_type = asked_for or (DEFAULT_WEIGHT_TYPE if checkpoint.header is None else None)
    is_blind = weight_type in FOUR_BITS and not checkpoint.importance and checkpoint.quantises(*FOUR_BITS)
    if weight_type is None or not is_blind:
        return None
    return f"weights are rounded as if all mattered the same: {_what_helps(checkpoint, weight_type)}"


def _what_helps(checkpoint: Checkpoint, weight_type: ElementType) -> str:
    kind = "hf" if checkpoint.header is None else "gguf"
    command = f"{kind} {checkpoint.path} {weight_type.label} NAME"
    if not is_convertible(checkpoint, weight_type):
        command = f"importance {checkpoint.path}"
    return (
        f"`dllama convert {command}` finds out which do, which halves what is"
        " lost; what it finds is used from then on, also where the model is run as it is"
    )


def n_sequences(n_texts: int, max_seq_len: int) -> int:
    """How many texts of the whole context the cache is to hold, so that `n_texts` of the usual length fit."""
    return min(n_texts, max(2, -(-n_texts * _USUAL_TEXT // max_seq_len)))


def model_path(options: ModelOptions) -> Path:
    """The model to open: dllama's own where none is given."""
    return options.model or Path(str(importlib.resources.files("dllama") / "demo_model"))


def tokenizer_path(tokenizer: Path | None, model: Path, on_note: Callable[[str], None]) -> Path:
    """What is given, else the model's directory or GGUF file, else the one `.t` beside it. Raises TokenizerError."""
    if tokenizer is not None:
        return tokenizer
    if model.is_dir() or gguf_file(model) is not None:
        return model
    beside = sorted(path for path in model.parent.glob("*.t") if path.is_file())
    if len(beside) == 1:
        on_note(f"tokenizer: {beside[0]}, the only one beside the model (--tokenizer)")
        return beside[0]
    found = (
        f"several are beside it ({', '.join(path.name for path in beside)})"
        if beside
        else "none is beside it"
    )
    raise TokenizerError(f"{model} has no tokenizer in it, and {found}: give one with --tokenizer FILE.t")


def max_seq_len_for(wanted: int | None, config: ModelConfig) -> int:
    """The context. Raises UsageError when more is wanted than the model was made for."""
    if wanted is not None and wanted > config.max_seq_len:
        raise UsageError(f"--max-seq-len {wanted} is more than the model's context of {config.max_seq_len}")
    return wanted or min(config.max_seq_len, DEFAULT_MAX_SEQ_LEN)


def wire_type(
    wanted: ElementType | None, model: ModelSpec, device: DeviceKind = DeviceKind.CPU
) -> ElementType:
    """What partial sums travel as: by default as exact as the root computes."""
    if wanted is not None:
        return wanted
    is_quantised = model.types.is_blocked and device is not DeviceKind.REFERENCE
    return ElementType.Q80 if is_quantised else ElementType.F32
