"""The exception tree of dllama.

DllamaError                 what a user, a file or a peer did wrong; the message is one complete line
├── UsageError              a flag or a request that cannot be carried out (exit code 2)
├── ModelFileError          a model file or directory that is missing, damaged or of an unknown kind
├── UnsupportedModelError   a sound file of a model that this program does not know
├── TokenizerError          a tokenizer that is missing, damaged or does not fit the model
├── DownloadError           a model that the Hugging Face Hub does not give, or not whole
├── NotEnoughMemoryError    what is needed does not fit into a node's memory
├── SystemLimitError        the system has no more threads or open files to give
├── NotEnoughDiskError      what is to be written does not fit on the disk
├── ContextFullError        a prompt or a text longer than the context
├── QueueFullError          more requests than can wait
├── NumericalError          NaN or infinity where only numbers belong
└── PeerError               anything that another node did, or no longer does
    ├── PeerUnreachableError    nothing answers at its address
    ├── PeerBusyError           it works for another root
    ├── PeerProtocolError       it is no dllama node, of another version, or sent what nobody asked for
    ├── PeerLostError           its connection ended
    └── PeerTimeoutError        it did not answer in time

`assert` is for our own mistakes and never for these.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar


class DllamaError(Exception):
    """A fault outside this program. str(error) is one line: who, what, and what to do next.

    settings   those that it is about or that would help, by the names of options in the code: whoever shows the error
               knows what they are called there (a flag, say)
    """

    exit_code = 1

    def __init__(self, message: str = "", *, settings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.settings = tuple(settings)


class UsageError(DllamaError):
    exit_code = 2


class ModelFileError(DllamaError):
    pass


class UnsupportedModelError(DllamaError):
    pass


class TokenizerError(DllamaError):
    pass


class DownloadError(DllamaError):
    pass


class NotEnoughMemoryError(DllamaError):
    pass


class SystemLimitError(DllamaError):
    pass


class NotEnoughDiskError(DllamaError):
    pass


class ContextFullError(DllamaError):
    pass


def context_full(what: str, n_tokens: int | str, limit: int) -> ContextFullError:
    """The error that `what` has `n_tokens` tokens (or "at least 70"), and the context `limit`."""
    return ContextFullError(
        f"{what} has {n_tokens} tokens and the context {limit}: shorten it, or take a longer context",
        settings=("max_seq_len",),
    )


class QueueFullError(DllamaError):
    """`retry_after_s`: when there will probably be room."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NumericalError(DllamaError):
    pass


class PeerError(DllamaError):
    pass


class PeerUnreachableError(PeerError):
    pass


class PeerBusyError(PeerError):
    pass


class PeerProtocolError(PeerError):
    pass


class PeerLostError(PeerError):
    pass


class PeerTimeoutError(PeerError):
    pass


E = TypeVar("E", bound=DllamaError)


@dataclasses.dataclass(frozen=True)
class Failure(Generic[E]):
    """What an error said, and its attributes (`facts`). This is kept where the error may not be: an exception holds the
    frames that it passed, and all that lives in them, for as long as it is kept."""

    kind: type[E]
    message: str
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, error: E) -> Failure[E]:
        return cls(type(error), str(error), dict(vars(error)))

    def error(self, prefix: str = "") -> E:
        """A new error that says the same, after `prefix`. An error that is raised again and again keeps the frames of
        all times."""
        error = self.kind.__new__(self.kind, prefix + self.message)  # `__init__` may want more than a message
        vars(error).update(self.facts)
        return error

    def __str__(self) -> str:
        return self.message


def let_go_of_frames(error: BaseException) -> None:
    """Clears the frames that `error`, and the errors that led to it, have passed: what lived in them is free at once,
    also where an error and a frame hold each other. To be called by who handles an error of something that ends."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None and not any(one is other for other in seen):
            seen.append(one)
            traceback.clear_frames(one.__traceback__)
            pending += [one.__cause__, one.__context__]
