"""`dllama inference` (in 2024: `generate`): one prompt, its continuation, and what each step took."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from dllama.cli.options import (
    add_model_flags,
    add_sampling_flags,
    model_options,
    output_path,
    positive_int,
    sampling_options,
)
from dllama.cli.record import RunRecord, step_line, summary_lines, write_report
from dllama.cli.session import Session, open_session
from dllama.engine import CachedSequence, PromptDone, Sampler, generate
from dllama.errors import ContextFullError, UsageError
from dllama.formats.atomic import write_atomically
from dllama.tokenizer import StreamDecoder


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("inference", aliases=["generate"], help="continue a prompt")
    add_model_flags(parser)
    add_sampling_flags(parser)
    parser.add_argument(
        "--prompt", required=True, metavar="TEXT", help="taken as it is, without a chat template"
    )
    parser.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help="tokens of prompt and text together (default: the context)",
    )
    parser.add_argument("--ignore-eos", action="store_true", help="go on after an end token")
    parser.add_argument("--stream", action="store_true", help="print the text alone, as it comes")
    parser.add_argument("--report", type=output_path, metavar="FILE", help="write what was measured as JSON")
    parser.add_argument(
        "--logits", type=output_path, metavar="FILE.npy", help="store the prompt's logits [n, vocab] (slow)"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    if not args.prompt:
        raise UsageError("--prompt is empty: give the text to continue")
    sampler = Sampler(sampling_options(args))
    with open_session(model_options(args), args.isa) as session:
        prompt_ids = _prompt_ids(session, args.prompt, args.steps)
        record = RunRecord(prompt_ids)
        logits = _generate(session, record, sampler, args)
        if args.logits:
            with write_atomically(args.logits) as file:
                np.save(file, logits)
        print("\n".join(["", *summary_lines(record, session)]))
        if args.report:
            write_report(args.report, record, session)


def _generate(session: Session, record: RunRecord, sampler: Sampler, args: argparse.Namespace) -> np.ndarray:
    """Prints what comes and keeps the record; returns the prompt's logits [n, V] where they are asked for."""
    decoder = StreamDecoder(session.tokenizer, continues=True)
    n_tokens = (args.steps or session.engine.max_seq_len) - len(record.prompt_ids)
    logits = []
    for event in generate(
        session.engine,
        CachedSequence(),
        record.prompt_ids,
        sampler,
        n_tokens=n_tokens,
        end_ids=() if args.ignore_eos else session.tokenizer.eos_ids,
        all_prompt_logits=args.logits is not None,
    ):
        if isinstance(event, PromptDone):
            record.prompt_step(event.n_tokens, session.cluster.last_step)
            if event.logits is not None:
                logits.append(event.logits)
            line, piece = step_line("Eval", session.cluster.last_step, f"({event.n_tokens} tokens)"), ""
        else:
            piece = decoder.feed(event.token_id)
            step = record.token(event.token_id, piece, session.cluster.last_step)
            line = step_line("Pred", step, piece)
        sys.stdout.write(piece if args.stream else f"{line}\n")
        sys.stdout.flush()
    rest = decoder.flush()
    record.pieces.append(rest)
    sys.stdout.write(f"{rest}\n" if args.stream else "")
    return np.concatenate(logits) if args.logits else np.empty(0)


def _prompt_ids(session: Session, prompt: str, steps: int | None) -> list[int]:
    ids = session.tokenizer.encode(prompt, add_bos=session.tokenizer.add_bos)
    limit = session.engine.max_seq_len
    if len(ids) > limit:
        raise ContextFullError(
            f"the prompt has {len(ids)} tokens and the context {limit}: shorten it or raise --max-seq-len"
        )
    if steps is not None and len(ids) > steps:
        raise UsageError(f"the prompt alone has {len(ids)} tokens, more than --steps {steps}")
    return ids
