"""The exception tree of dllama.

DllamaError                 what a user, a file or a peer did wrong; the message is one complete line
├── UsageError              a flag or a request that cannot be carried out (exit code 2)
├── ModelFileError          a model file or directory that is missing, damaged or of an unknown kind
├── UnsupportedModelError   a sound file of a model that this program does not know
├── TokenizerError          a tokenizer that is missing, damaged or does not fit the model
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


class DllamaError(Exception):
    """A fault outside this program. str(error) is one line: who, what, and what to do next."""

    exit_code = 1


class UsageError(DllamaError):
    exit_code = 2


class ModelFileError(DllamaError):
    pass


class UnsupportedModelError(DllamaError):
    pass


class TokenizerError(DllamaError):
    pass


class NotEnoughMemoryError(DllamaError):
    pass


class SystemLimitError(DllamaError):
    pass


class NotEnoughDiskError(DllamaError):
    pass


class ContextFullError(DllamaError):
    pass


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
