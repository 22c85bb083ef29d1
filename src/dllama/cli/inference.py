"""`dllama inference` (in 2024: `generate`): one prompt, its continuation, and what each step took."""

from __future__ import annotations

import argparse
import sys

import numpy as np
from numpy.typing import NDArray

from dllama.cli.options import (
    add_model_flags,
    add_sampling_flags,
    model_options,
    output_path,
    positive_int,
    sampling_options,
)
from dllama.cli.record import RunRecord, step_line, summary_lines, write_logits, write_report, write_trace
from dllama.cli.session import Session, open_session
from dllama.engine import Event, Failed, Finished, GenerationOptions, TextDelta, score
from dllama.errors import ContextFullError, UsageError


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
        "--trace", type=output_path, metavar="FILE", help="write what every node did when, for Perfetto"
    )
    parser.add_argument(
        "--logits", type=output_path, metavar="FILE.npy", help="store the prompt's logits [n, vocab] (slow)"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    if not args.prompt:
        raise UsageError("--prompt is empty: give the text to continue")
    sampling = sampling_options(args)
    with open_session(model_options(args), args.isa) as session:
        prompt_ids = _prompt_ids(session, args.prompt, args.steps)
        record = RunRecord(prompt_ids)
        options = GenerationOptions(
            sampling=sampling,
            max_tokens=(args.steps or session.max_seq_len) - len(prompt_ids),
            ignore_eos=args.ignore_eos,
            speculate=args.speculate,
            continues=True,
        )
        trace = session.cluster.begin_trace() if args.trace else None
        _generate(session, record, options, args.stream)
        print("\n".join(["", *summary_lines(record, session)]))
        if trace:
            write_trace(args.trace, trace, session)
        if args.report:
            write_report(args.report, record, session)
        if args.logits:
            write_logits(args.logits, _prompt_logits(session, prompt_ids))


def _generate(session: Session, record: RunRecord, options: GenerationOptions, stream: bool) -> None:
    """Prints what comes, and keeps the record."""
    events: list[Event] = []
    session.engine.submit(record.prompt_ids, options, events.append)
    while session.engine.has_work:
        done = session.engine.step()
        times = session.cluster.last_step
        if done and done.n_prompt_rows:
            record.prompt_step(done.n_prompt_rows, times)
            if not stream:
                _show(step_line("Eval", times, f"({done.n_prompt_rows} tokens)") + "\n")
        token_ids, piece = _tokens_and_text(events)
        events.clear()
        if token_ids:
            times = record.tokens(token_ids, piece, times)
            _show(piece if stream else step_line("Pred", times, piece) + "\n")
    if stream:
        _show("\n")


def _tokens_and_text(events: list[Event]) -> tuple[list[int], str]:
    """What one step added, the end token included. Raises what a request failed of."""
    token_ids, text = [], ""
    for event in events:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, TextDelta):
            token_ids += [token.token_id for token in event.tokens]
            text += event.text
        elif isinstance(event, Finished) and event.end_id is not None:
            token_ids.append(event.end_id)
    return token_ids, text


def _prompt_logits(session: Session, prompt_ids: list[int]) -> NDArray[np.float32]:
    """[n, V], of every token of the prompt, computed once more: the engine keeps none."""
    logits = [session.cluster.whole_logits() for _ in score(session.cluster, prompt_ids)]
    return np.concatenate(logits)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _prompt_ids(session: Session, prompt: str, steps: int | None) -> list[int]:
    ids = session.tokenizer.encode(prompt, add_bos=session.tokenizer.add_bos)
    limit = session.max_seq_len
    if len(ids) > limit:
        raise ContextFullError(
            f"the prompt has {len(ids)} tokens and the context {limit}: shorten it or raise --max-seq-len"
        )
    if steps is not None and len(ids) > steps:
        raise UsageError(f"the prompt alone has {len(ids)} tokens, more than --steps {steps}")
    return ids
