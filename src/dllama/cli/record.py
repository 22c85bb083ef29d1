"""What a run measured: the lines on the screen and the JSON of --report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from dllama.cli.session import Session
from dllama.formats.atomic import write_atomically
from dllama.node import ClusterTrace, NodeInfo, StepTimes, chrome_trace, waited_for

_NO_STEP = StepTimes(eval_s=0.0, sync_s=0.0, sent_bytes=0, received_bytes=0)


_NOT_IN_A_LINE = ("Cc", "Zl", "Zp")
"""Unicode's categories of controls, line and paragraph separators."""


class RunRecord:
    """Collects one text's steps as they happen."""

    def __init__(self, prompt_ids: list[int]) -> None:
        self.prompt_ids = prompt_ids
        self.token_ids: list[int] = []
        self.pieces: list[str] = []
        self.prefill = Phase()
        self.decode = Phase()
        self.first_token_s = 0.0
        self._start = time.perf_counter()

    def prompt_step(self, n_tokens: int, times: StepTimes) -> None:
        self.prefill.add(n_tokens, times)

    def tokens(self, token_ids: list[int], piece: str, times: StepTimes) -> StepTimes:
        """The step that gave these tokens; the first one comes out of the prompt's last step, at no cost."""
        if self.token_ids:
            self.decode.add(len(token_ids), times)
        else:
            self.first_token_s = time.perf_counter() - self._start
            times = _NO_STEP
        self.token_ids.extend(token_ids)
        self.pieces.append(piece)
        return times


@dataclasses.dataclass
class Phase:
    """Sums over steps of one kind."""

    n_tokens: int = 0
    n_steps: int = 0
    eval_s: float = 0.0
    sync_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0

    def add(self, n_tokens: int, times: StepTimes) -> None:
        self.n_tokens += n_tokens
        self.n_steps += 1
        for field in dataclasses.fields(times):
            setattr(self, field.name, getattr(self, field.name) + getattr(times, field.name))

    @property
    def seconds(self) -> float:
        return self.eval_s + self.sync_s

    @property
    def tok_per_s(self) -> float:
        return self.n_tokens / self.seconds if self.seconds else 0.0

    def per_token(self, total: float) -> float:
        return total / self.n_tokens if self.n_tokens else 0.0


def step_line(kind: str, times: StepTimes, what: str) -> str:
    """One step as Distributed Llama prints it. It is one line: line ends and controls in `what` are escaped.

    Nothing else is, as plain_line would: `what` may be a piece of text in a language that has marks of direction or
    joiners, or other blanks than ours.
    """
    what = "".join(repr(char)[1:-1] if category(char) in _NOT_IN_A_LINE else char for char in what)
    return (
        f"{kind}{times.eval_s * 1e3:6.0f} ms Sync{times.sync_s * 1e3:6.0f} ms | "
        f"Sent{times.sent_bytes / 1e3:7.0f} kB Recv{times.received_bytes / 1e3:7.0f} kB | {what}"
    )


def summary_lines(record: RunRecord, session: Session) -> list[str]:
    lines = []
    for name, phase in (("Evaluation", record.prefill), ("Prediction", record.decode)):
        per_token_ms = phase.per_token(phase.seconds) * 1e3
        lines += [
            name,
            f"    nTokens: {phase.n_tokens}",
            f"   tokens/s: {phase.tok_per_s:.2f} ({per_token_ms:.2f} ms/tok)",
        ]
    if record.token_ids:
        lines.append(f"First token: {record.first_token_s * 1e3:.0f} ms")
    lines.append(f"Loading: {session.load_s:.2f} s")
    for rank, n_bytes in enumerate(session.cluster.sent_bytes):
        if rank:
            loaded = session.cluster.load_sent_bytes[rank]
            lines.append(
                f"Sent to {session.cluster.node_name(rank)}: {loaded / 1e6:.1f} MB weights, "
                f"{(n_bytes - loaded) / 1e3:.0f} kB while computing"
            )
    return lines


def write_report(path: Path, record: RunRecord, session: Session) -> None:
    """The JSON of --report; bytes are the root's own, as counted at its fabric."""
    config, cluster = session.config, session.cluster
    values: dict[str, Any] = {
        "model": {
            "family": config.family,
            "weight_type": cluster.model.types.label,
            "n_layers": config.n_layers,
            "dim": config.dim,
        },
        "nodes": [
            {
                "rank": node.rank,
                "address": node.name,
                "weight_bytes": node.weight_bytes,
                "kv_bytes": node.kv_bytes,
                "peak_rss_bytes": peak_bytes,
            }
            for node, peak_bytes in zip(cluster.nodes(), cluster.peak_rss_bytes(), strict=True)
        ],
        "token_ids": record.prompt_ids + record.token_ids,
        "n_prompt_tokens": len(record.prompt_ids),
        "n_generated_tokens": len(record.token_ids),
        "text": "".join(record.pieces),
        "load": {"seconds": session.load_s, "sent_bytes": sum(cluster.load_sent_bytes)},
        "prefill": _speed(record.prefill),
        "decode": _speed(record.decode)
        | {
            "eval_ms_per_tok": record.decode.per_token(record.decode.eval_s) * 1e3,
            "sync_ms_per_tok": record.decode.per_token(record.decode.sync_s) * 1e3,
            "sent_bytes_per_tok": record.decode.per_token(record.decode.sent_bytes),
            "recv_bytes_per_tok": record.decode.per_token(record.decode.received_bytes),
        },
        "time_to_first_token_s": record.first_token_s,
        "n_whole_logits": cluster.n_whole_logits,
        "timeline": _timeline(cluster.nodes()),
    }
    with write_atomically(path) as file:
        file.write(json.dumps(values, indent=1).encode())


def write_trace(path: Path, trace: ClusterTrace, session: Session) -> None:
    """The JSON of --trace: open it at https://ui.perfetto.dev or chrome://tracing."""
    names = [session.cluster.node_name(rank) for rank in range(session.cluster.n_nodes)]
    with write_atomically(path) as file:
        file.write(json.dumps(chrome_trace(trace.gather(), names)).encode())


def write_logits(path: Path, logits: NDArray[np.float32]) -> None:
    """The .npy of --logits. np.save would ask for a position, which a pipe has not."""
    with write_atomically(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(logits))
        file.write(np.ascontiguousarray(logits).data)


def _timeline(nodes: Sequence[NodeInfo]) -> dict[str, Any]:
    """What each node did with the time of a step, over the last ones, and which of them the others waited for,
    None if no single one."""
    means = [node.mean for node in nodes if node.mean is not None]
    return {
        "nodes": [
            {"rank": rank}
            | {name.removesuffix("_s") + "_ms": 1e3 * value for name, value in vars(mean).items()}
            for rank, mean in enumerate(means)
        ],
        "waited_for": waited_for(means),
    }


def _speed(phase: Phase) -> dict[str, float]:
    return {"tokens": phase.n_tokens, "seconds": phase.seconds, "tok_per_s": phase.tok_per_s}
