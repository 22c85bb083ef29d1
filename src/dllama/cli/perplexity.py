"""`dllama perplexity`: how well a model predicts a text, and how far it is from a reference model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from dllama.checkpoint import open_checkpoint
from dllama.cli.console import note, progress_count
from dllama.cli.devices import DeviceKind
from dllama.cli.options import WEIGHT_TYPES, ModelOptions, add_model_flags, model_options
from dllama.cli.session import Session, max_seq_len_for, model_path, open_session, tokenizer_path
from dllama.cli.text_input import read_text
from dllama.dtypes import ElementType
from dllama.engine import Divergence, DivergenceReport, StoredLogits, score_windows, stored_logits
from dllama.errors import NumericalError, UsageError
from dllama.model import Candidates
from dllama.tokenizer import Tokenizer, load_tokenizer


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("perplexity", help="how well a model predicts a text")
    add_model_flags(parser)
    parser.add_argument(
        "--file", type=Path, required=True, metavar="TEXT", help="UTF-8 text; - is standard input"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="PATH",
        help="say how far the predictions are from this model's too, one with the same tokenizer: the original of a"
        " quantised one, usually. One is loaded after the other; 4 bytes for each token of the vocabulary at each"
        " position of the text wait in the temporary directory (TMPDIR)",
    )
    parser.add_argument(
        "--reference-float-type",
        choices=WEIGHT_TYPES,
        help="quantise the reference to: a directory (default f32, exact), a GGUF file (default: the types it has)",
    )
    parser.add_argument(
        "--reference-device",
        choices=[str(kind) for kind in DeviceKind],
        help="what this node computes the reference on (default: as --device). With the model's own file as reference,"
        " reference says what its arithmetic loses, beside float32 on the same weights",
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    text, options = read_text(args.file), model_options(args)
    if args.reference is None:
        if args.reference_float_type is not None:
            raise UsageError("--reference-float-type is for --reference, which is not given")
        if args.reference_device is not None:
            raise UsageError("--reference-device is for --reference, which is not given")
        with open_session(options, args.isa) as session:
            ids = _encode(session.tokenizer, text, args.file)
            _show_predictions(_predict(session, ids, session.max_seq_len))
        return
    reference = _reference_options(options, args)
    ids, vocab_size, window = _common_ground(options, reference, text, args.file)
    with stored_logits(len(ids) - 1, vocab_size) as store:
        with open_session(reference, args.isa, on_note=_note_of_reference) as session:
            of_reference = _predict(session, ids, window, "reference", on_step=_keep(session, store))
        store.rewind()
        divergence = Divergence()
        with open_session(options, args.isa) as session:
            predictions = _predict(session, ids, window, on_step=_compare(session, store, divergence))
    _show_predictions(predictions)
    _show_divergence(of_reference, divergence.report())


@dataclasses.dataclass(frozen=True)
class _Predictions:
    """The number of tokens that were predicted, and their average log-probability."""

    n: int
    average: float

    @property
    def perplexity(self) -> float:
        return math.exp(-self.average)


_OnStep = Callable[[int], None]
"""Gets the number of the step's rows that have a following token, the first ones."""


def _predict(
    session: Session,
    ids: Sequence[int],
    window: int,
    label: str = "perplexity",
    on_step: _OnStep = lambda n_following: None,
) -> _Predictions:
    """The log-probabilities of ids[1:], each after all before it."""
    total, n_predicted = 0.0, 0
    with progress_count(label, "tokens") as advance:
        for candidates, n_following in score_windows(session.cluster, ids, window):
            total += _log_probability_of_targets(candidates, n_following)
            on_step(n_following)
            n_predicted += n_following
            advance(n_predicted, len(ids) - 1)
    return _Predictions(n_predicted, total / n_predicted)


def _keep(session: Session, store: StoredLogits) -> _OnStep:
    return lambda n: store.append(session.cluster.whole_logits()[:n])


def _compare(session: Session, store: StoredLogits, divergence: Divergence) -> _OnStep:
    return lambda n: divergence.add(store.read(n), session.cluster.whole_logits()[:n])


def _log_probability_of_targets(candidates: Candidates, n: int) -> float:
    """The sum over the first `n` rows."""
    total = float((candidates.target_logits[:n] - candidates.log_sum_exp[:n]).sum())
    if not math.isfinite(total):
        raise NumericalError(
            "the logits hold NaN or infinity: the model's weights are damaged, get its files again"
        )
    return total


def _show_predictions(predictions: _Predictions) -> None:
    print(f"tokens: {predictions.n}")
    print(f"perplexity: {predictions.perplexity:.4f}")
    print(f"average log-probability: {predictions.average:.6f}")
    print(f"bits per token: {-predictions.average / math.log(2):.4f}")


def _show_divergence(of_reference: _Predictions, report: DivergenceReport) -> None:
    print(f"reference perplexity: {of_reference.perplexity:.4f}")
    print(f"mean KL divergence: {report.mean:.6f}")
    print(f"median KL divergence: {report.median:.6f}")
    print(f"99th percentile of KL divergence: {report.percentile_99:.6f}")
    print(f"same first token: {100 * report.same_first:.2f} %")


def _note_of_reference(text: str) -> None:
    note(f"reference: {text}")


def _reference_options(options: ModelOptions, args: argparse.Namespace) -> ModelOptions:
    """The reference is computed as the model is, but for its weights."""
    device = DeviceKind(args.reference_device or options.device)
    label = args.reference_float_type or ("f32" if args.reference.is_dir() else None)
    weight_type = None if label is None else ElementType.from_label(label)
    return dataclasses.replace(options, model=args.reference, weight_type=weight_type, device=device)


def _common_ground(
    options: ModelOptions, reference: ModelOptions, text: str, file: Path
) -> tuple[list[int], int, int]:
    """The text's ids, the size of the vocabulary and a context that both models have. Loads no weights.

    Raises UsageError where the models' tokenizers differ on the text, or their vocabularies in size.
    """
    model, other = _look_at(options), _look_at(reference)
    ids = _encode(model.tokenizer, text, file)
    if ids != _encode(other.tokenizer, text, file):
        raise UsageError(
            f"{model.path} and {other.path} have different tokenizers: their ids of {file} are not the same, and the"
            " predictions cannot be compared"
        )
    if model.vocab_size != other.vocab_size:
        raise UsageError(
            f"{model.path} has a vocabulary of {model.vocab_size} and {other.path} one of {other.vocab_size}: their"
            " predictions cannot be compared"
        )
    return ids, model.vocab_size, min(model.window, other.window)


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a model's files say without its weights; `window` is the context."""

    path: Path
    tokenizer: Tokenizer
    vocab_size: int
    window: int


def _look_at(options: ModelOptions) -> _Look:
    path = model_path(options)
    with contextlib.closing(open_checkpoint(path, options.weight_type)) as checkpoint:
        tokenizer = load_tokenizer(tokenizer_path(options.tokenizer, path, lambda line: None))
        window = max_seq_len_for(options.max_seq_len, checkpoint.config)
        return _Look(path, tokenizer, checkpoint.config.vocab_size, window)


def _encode(tokenizer: Tokenizer, text: str, file: Path) -> list[int]:
    """Raises UsageError for a text that is too short."""
    ids = tokenizer.encode(text, add_bos=tokenizer.add_bos)
    if len(ids) < 2:
        raise UsageError(f"{file} has {len(ids)} tokens: at least 2 are needed")
    return ids
