"""`dllama inference` (in 2024: `generate`): one prompt, its continuation, and what each step took."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.cli.console import PromptBar, note, show
from dllama.cli.interrupts import interruptible
from dllama.cli.options import (
    add_model_flags,
    add_sampling_flags,
    check_outputs_differ,
    model_options,
    output_path,
    positive_int,
    sampling_options,
)
from dllama.cli.record import RunRecord, step_line, summary_lines, write_logits, write_report, write_trace
from dllama.cli.session import Session, open_session
from dllama.cli.text_input import read_text, text_argument
from dllama.engine import Event, Failed, Finished, GenerationOptions, TextDelta, score
from dllama.errors import UsageError, context_full


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("inference", aliases=["generate"], help="continue a prompt")
    add_model_flags(parser)
    add_sampling_flags(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument(
        "--prompt", type=text_argument, metavar="TEXT", help="taken as it is, without a chat template"
    )
    prompt.add_argument(
        "--prompt-file",
        type=Path,
        metavar="FILE",
        help="the prompt without the line end after it; - is standard input",
    )
    parser.add_argument(
        "--no-special",
        action="store_true",
        help="names of special tokens in the prompt, such as <|im_start|>, stay text",
    )
    parser.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help="tokens of prompt and text together (default: the context)",
    )
    parser.add_argument("--ignore-eos", action="store_true", help="go on after an end token")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="print the text alone, as it comes; what was measured goes to standard error",
    )
    parser.add_argument("--report", type=output_path, metavar="FILE", help="write what was measured as JSON")
    parser.add_argument(
        "--trace", type=output_path, metavar="FILE", help="write what every node did when, for Perfetto"
    )
    parser.add_argument(
        "--logits", type=output_path, metavar="FILE.npy", help="store the prompt's logits [n, vocab] (slow)"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    """Ctrl-C ends the text after the step under way: what was measured until then is shown and written."""
    check_outputs_differ({"--report": args.report, "--trace": args.trace, "--logits": args.logits})
    text = _prompt(args)
    sampling = sampling_options(args)
    with open_session(model_options(args), args.isa) as session:
        prompt_ids = _prompt_ids(session, text, args)
        record = RunRecord(prompt_ids)
        options = GenerationOptions(
            sampling=sampling,
            max_tokens=(args.steps or session.max_seq_len) - len(prompt_ids),
            ignore_eos=args.ignore_eos,
            speculate=args.speculate,
            continues=True,
        )
        trace = session.cluster.begin_trace() if args.trace else None
        with interruptible() as interrupted:
            _generate(session, record, options, args.stream, interrupted)
        summary = "\n".join(["", *summary_lines(record, session)])
        if args.stream:
            note(summary)
        else:
            print(summary, flush=True)
        if trace:
            write_trace(args.trace, trace, session)
        if args.report:
            write_report(args.report, record, session)
        if interrupted:
            raise KeyboardInterrupt
        if args.logits:
            write_logits(args.logits, _prompt_logits(session, prompt_ids))


def _prompt(args: argparse.Namespace) -> str:
    """The text to continue. Raises UsageError where there is none."""
    if args.prompt is not None:
        flag, text = "--prompt", args.prompt
    else:
        flag = f"--prompt-file {args.prompt_file}"
        text = re.sub(r"\r?\n\Z", "", read_text(args.prompt_file))  # editors and `echo` end a line with it
    if not text:
        raise UsageError(f"{flag} is empty: give the text to continue")
    return str(text)


def _generate(
    session: Session, record: RunRecord, options: GenerationOptions, stream: bool, interrupted: list[None]
) -> None:
    """Prints what comes, and keeps the record, until the text ends or `interrupted` is filled."""
    events: list[Event] = []
    engine = session.new_engine()
    engine.submit(record.prompt_ids, options, events.append)
    bar = PromptBar()
    try:
        while engine.has_work and not interrupted:
            done = engine.step()
            bar.hide()
            times = session.cluster.last_step
            if done and done.n_prompt_rows:
                record.prompt_step(done.n_prompt_rows, times)
                if not stream:
                    show(step_line("Eval", times, f"({done.n_prompt_rows} tokens)") + "\n")
                bar.show(record.prefill.n_tokens, len(record.prompt_ids))
            token_ids, piece = _tokens_and_text(events)
            events.clear()
            if token_ids:
                times = record.tokens(token_ids, piece, times)
                show(piece if stream else step_line("Pred", times, piece) + "\n")
    finally:
        bar.hide()
    if stream:
        show("\n")


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


def _prompt_ids(session: Session, prompt: str, args: argparse.Namespace) -> list[int]:
    tokenizer, steps = session.tokenizer, args.steps
    ids = tokenizer.encode(prompt, add_bos=tokenizer.add_bos, parse_special=not args.no_special)
    limit = session.max_seq_len
    if len(ids) > limit:
        raise context_full("the prompt", len(ids), limit)
    if steps is not None and len(ids) > steps:
        raise UsageError(f"the prompt alone has {len(ids)} tokens, more than --steps {steps}")
    return ids
