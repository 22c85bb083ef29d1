"""`dllama perplexity`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from dllama.cli.console import Advance, progress_count
from dllama.cli.options import add_model_flags, model_options
from dllama.cli.session import Session, open_session
from dllama.cli.text_input import read_text
from dllama.engine import score
from dllama.errors import NumericalError, UsageError
from dllama.model import Candidates


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("perplexity", help="how well a model predicts a text")
    add_model_flags(parser)
    parser.add_argument(
        "--file", type=Path, required=True, metavar="TEXT", help="UTF-8 text; - is standard input"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    text = read_text(args.file)
    with open_session(model_options(args), args.isa) as session:
        ids = session.tokenizer.encode(text, add_bos=session.tokenizer.add_bos)
        if len(ids) < 2:
            raise UsageError(f"{args.file} has {len(ids)} tokens: at least 2 are needed")
        with progress_count("perplexity", "tokens") as advance:
            total, n_predicted = _log_probability(session, ids, advance)
    average = total / n_predicted
    print(f"tokens: {n_predicted}")
    print(f"perplexity: {math.exp(-average):.4f}")
    print(f"average log-probability: {average:.6f}")
    print(f"bits per token: {-average / math.log(2):.4f}")


def _log_probability(session: Session, ids: list[int], advance: Advance) -> tuple[float, int]:
    """The sum of log-probabilities of ids[1:], each after all before it, and their number.

    A text longer than the context is taken in windows that begin anew, each with the last token of the one
    before it (which is predicted there).
    """
    total, n_predicted, window = 0.0, 0, session.max_seq_len
    for first in range(0, len(ids) - 1, window - 1):
        n_left = len(ids[first : first + window]) - 1  # nothing follows the last one
        for candidates in score(session.cluster, ids[first : first + window]):
            n_following = min(len(candidates.ids), n_left)
            total += _log_probability_of_targets(candidates, n_following)
            n_left -= n_following
            n_predicted += n_following
            advance(n_predicted, len(ids) - 1)
    return total, n_predicted


def _log_probability_of_targets(candidates: Candidates, n: int) -> float:
    """The sum over the first `n` rows."""
    total = float((candidates.target_logits[:n] - candidates.log_sum_exp[:n]).sum())
    if not math.isfinite(total):
        raise NumericalError(
            "the logits hold NaN or infinity: the model's weights are damaged, get its files again"
        )
    return total
