"""How the engine serves several texts at once, on random weights of a well-known shape.

    python tools/measure_engine.py batch|gap|guess|overhead [--shape NAME] [--nthreads N] ...

batch     tokens/s of one text and of several at once
gap       how long the streams of others wait while a long prompt is computed, beside what they wait otherwise
guess     speed with and without draft tokens: a text that repeats its prompt with small edits, one that never does
overhead  seconds of a step outside the executor

Random weights do not copy text. For `guess` the model computes every step as always, but what is drawn is replaced by
the next token of a script.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import queue
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from dllama.bench import random_checkpoint, shape_named
from dllama.dtypes import ElementType
from dllama.engine import (
    EngineService,
    Event,
    Executor,
    Failed,
    GenerationOptions,
    SamplingOptions,
    TextDelta,
)
from dllama.kernels import Cpu
from dllama.model import Candidates, StepBatch
from dllama.node import Cluster, ClusterOptions, NodeSettings

_WARM_UP_TOKENS = 8


class NumberTokenizer:
    """Every id is a word of its own. (A Tokenizer, as far as the engine needs one.)"""

    bos_id, add_bos, chat_template, drops_leading_space = None, False, None, False
    eos_ids: tuple[int, ...] = ()
    special_tokens: Mapping[str, int] = {}

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        return [int(word) for word in text.split()]

    def encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        return [token_id for part in parts for token_id in self.encode(str(part))]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"{token_id} " for token_id in ids)

    def token_bytes(self, token_id: int) -> bytes:
        return b"%d " % token_id

    def is_special(self, token_id: int) -> bool:
        return False


class Timed:
    """An Executor that keeps how long its steps took."""

    def __init__(self, inner: Executor, script: Sequence[int] | None = None) -> None:
        self._inner, self._script = inner, script
        self.config, self.cache = inner.config, inner.cache
        self.max_rows, self.max_logit_rows = inner.max_rows, inner.max_logit_rows
        self.whole_logits, self.hidden = inner.whole_logits, inner.hidden
        self.seconds: list[float] = []
        self.ends: list[float] = []
        self.n_rows: list[int] = []

    def step(self, batch: StepBatch) -> Candidates:
        start = time.perf_counter()
        candidates = self._inner.step(batch)
        if self._script is not None:
            places = batch.positions[batch.wanted.rows] + 1
            ids = candidates.ids.copy()
            ids[:, 0] = [self._script[place % len(self._script)] for place in places]
            candidates = dataclasses.replace(candidates, ids=ids)
        self.ends.append(time.perf_counter())
        self.seconds.append(self.ends[-1] - start)
        self.n_rows.append(batch.n_rows)
        return candidates


class Stream:
    """One request and when its tokens came."""

    def __init__(self, service: EngineService, prompt: list[int], options: GenerationOptions) -> None:
        self.times: list[float] = []
        self.token_ids: list[int] = []
        self._done: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._n_wanted = 0
        self.ticket = service.submit(prompt, options, self._on_event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.times.extend([time.perf_counter()] * len(event.tokens))
            self.token_ids.extend(token.token_id for token in event.tokens)
        self._done.put(event)

    def wait_for(self, n_tokens: int) -> None:
        """Until so many tokens have come, or the end."""
        while len(self.times) < n_tokens:
            event = self._done.get()
            if isinstance(event, Failed):
                raise event.error
            if not isinstance(event, TextDelta):
                return

    def gaps(self, start: float, stop: float) -> list[float]:
        """Those that ended between these times."""
        return [
            after - before
            for before, after in zip(self.times, self.times[1:], strict=False)
            if start < after <= stop
        ]


@contextlib.contextmanager
def cluster(args: argparse.Namespace, max_seq_len: int, n_sequences: int) -> Iterator[Cluster]:
    model = shape_named(args.shape, args.layers, ElementType.Q40)
    options = ClusterOptions(
        workers=(),
        shares=(1.0,),
        max_seq_len=max_seq_len,
        n_sequences=n_sequences,
        n_parallel=n_sequences,
        wire=ElementType.Q80,
        cache_type=ElementType.F16,
        node=NodeSettings(),
    )
    with contextlib.closing(random_checkpoint(model)) as checkpoint:
        opened = Cluster.open(checkpoint, Cpu(args.nthreads), options, lambda done, total: None)
        with contextlib.closing(opened):
            yield opened


@contextlib.contextmanager
def service(
    executor: Executor, max_seq_len: int, n_parallel: int, speculate: int = 0
) -> Iterator[EngineService]:
    opened = EngineService(
        executor,
        NumberTokenizer(executor.config.vocab_size),
        n_parallel=n_parallel,
        max_queued=n_parallel,
        max_seq_len=max_seq_len,
        speculate=speculate,
    )
    with contextlib.closing(opened):
        yield opened


def drawn(seed: int, n_tokens: int | None = None) -> GenerationOptions:
    """Hot enough that nothing repeats."""
    return GenerationOptions(
        sampling=SamplingOptions(temperature=1.0, topp=0.9, topk=40, seed=seed), max_tokens=n_tokens
    )


def prompt_of(args: argparse.Namespace, seed: int, n_tokens: int) -> list[int]:
    vocab_size = shape_named(args.shape, args.layers, ElementType.Q40).config.vocab_size
    ids: list[int] = np.random.default_rng(seed).integers(0, vocab_size, n_tokens).tolist()
    return ids


def measure_batch(args: argparse.Namespace) -> dict[str, float]:
    values: dict[str, float] = {}
    with cluster(args, 512, args.streams) as opened:
        for n_streams in (1, args.streams):
            speeds = []
            for repeat in range(args.repeat):
                with service(opened, 512, n_streams) as engine:
                    streams = [
                        Stream(engine, prompt_of(args, seed + 100 * repeat, 8), drawn(seed))
                        for seed in range(n_streams)
                    ]
                    for stream in streams:
                        stream.wait_for(_WARM_UP_TOKENS + args.gen)
                    start = max(stream.times[_WARM_UP_TOKENS - 1] for stream in streams)
                    stop = min(stream.times[-1] for stream in streams)
                    n_tokens = sum(start < t <= stop for stream in streams for t in stream.times)
                    speeds.append(n_tokens / (stop - start))
            values[f"tok_per_s_{n_streams}"] = statistics.median(speeds)
            values[f"tok_per_s_{n_streams}_min"], values[f"tok_per_s_{n_streams}_max"] = (
                min(speeds),
                max(speeds),
            )
    values["ratio"] = values[f"tok_per_s_{args.streams}"] / values["tok_per_s_1"]
    return values


def measure_gap(args: argparse.Namespace) -> dict[str, float]:
    max_seq_len = args.prompt + 1024
    with cluster(args, max_seq_len, args.streams + 1) as opened:
        timed = Timed(opened)
        with service(timed, max_seq_len, args.streams + 1) as engine:
            streams = [Stream(engine, prompt_of(args, seed, 8), drawn(seed)) for seed in range(args.streams)]
            for stream in streams:
                stream.wait_for(_WARM_UP_TOKENS)
            usual_start = time.perf_counter()
            for stream in streams:
                stream.wait_for(_WARM_UP_TOKENS + args.gen)
            start = time.perf_counter()
            n_steps = len(timed.seconds)
            long = Stream(engine, prompt_of(args, 99, args.prompt), drawn(99, 1))
            long.wait_for(1)
            stop = time.perf_counter()
    usual = [gap for stream in streams for gap in stream.gaps(usual_start, start)]
    during = [gap for stream in streams for gap in stream.gaps(start, stop)]
    rows = timed.n_rows[n_steps:]
    return {
        "usual_gap_ms": statistics.median(usual) * 1e3,
        "usual_gap_p99_ms": float(np.percentile(usual, 99)) * 1e3,
        "gap_median_ms": statistics.median(during) * 1e3,
        "gap_p99_ms": float(np.percentile(during, 99)) * 1e3,
        "gap_max_ms": max(during) * 1e3,
        "p99_by_usual": float(np.percentile(during, 99)) / statistics.median(usual),
        "prompt_s": stop - start,
        "prompt_tok_per_s": args.prompt / (stop - start),
        "rows_median": statistics.median(rows),
        "n_gaps": len(during),
    }


def edited_copy(args: argparse.Namespace, n_tokens: int) -> tuple[list[int], list[int]]:
    """A prompt, and itself again with three new tokens in place of every fortieth: as code is edited."""
    prompt = prompt_of(args, 1, n_tokens)
    reply, new = list(prompt), prompt_of(args, 2, n_tokens)
    for first in range(20, n_tokens, 40):
        reply[first : first + 3] = new[first : first + 3]
    return prompt, prompt + reply


def measure_guess(args: argparse.Namespace) -> dict[str, float]:
    values: dict[str, float] = {}
    prompt, copied = edited_copy(args, args.gen + 2)
    fresh = prompt + prompt_of(args, 3, args.gen + 2)
    greedy = GenerationOptions(sampling=SamplingOptions(temperature=0), max_tokens=args.gen)
    with cluster(args, len(copied) + 8, 1) as opened:
        for name, script in (("repeating", copied), ("fresh", fresh)):
            speeds: dict[int, list[float]] = {0: [], args.speculate: []}
            for repeat in range(args.repeat + 1):
                for speculate, measured in speeds.items():
                    timed = Timed(opened, script)
                    with service(timed, len(copied) + 8, 1, speculate) as engine:
                        stream = Stream(engine, prompt, greedy)
                        stream.wait_for(args.gen)
                        assert stream.token_ids == script[len(prompt) : len(prompt) + args.gen]
                    if repeat:  # the first warms up
                        measured.append((args.gen - 1) / (stream.times[-1] - stream.times[0]))
            plain, guessed = (statistics.median(measured) for measured in speeds.values())
            values |= {
                f"{name}_plain_tok_per_s": plain,
                f"{name}_guessed_tok_per_s": guessed,
                f"{name}_ratio": guessed / plain,
            }
    return values


def measure_overhead(args: argparse.Namespace) -> dict[str, float]:
    with cluster(args, 512, args.streams) as opened:
        timed = Timed(opened)
        with service(timed, 512, args.streams) as engine:
            streams = [Stream(engine, prompt_of(args, seed, 8), drawn(seed)) for seed in range(args.streams)]
            for stream in streams:
                stream.wait_for(_WARM_UP_TOKENS + args.gen)
    steps = list(zip(timed.seconds, timed.ends, timed.ends[1:], timed.seconds[1:], strict=False))
    between = [after - before - seconds for _, before, after, seconds in steps][_WARM_UP_TOKENS:]
    return {
        "overhead_median_ms": statistics.median(between) * 1e3,
        "overhead_p99_ms": float(np.percentile(between, 99)) * 1e3,
        "step_median_ms": statistics.median(timed.seconds[_WARM_UP_TOKENS:]) * 1e3,
    }


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "batch": measure_batch,
    "gap": measure_gap,
    "guess": measure_guess,
    "overhead": measure_overhead,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--nthreads", type=int, default=2)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=4000)
    parser.add_argument("--speculate", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    print(json.dumps(MEASUREMENTS[args.what](args), indent=1))


if __name__ == "__main__":
    main()
