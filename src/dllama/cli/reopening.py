"""A model for a command that outlives the loss of a node."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType

from dllama.cli.console import note
from dllama.cli.interrupts import Ending
from dllama.cli.options import ModelOptions
from dllama.cli.session import Session, open_session
from dllama.cli.settings import with_flags
from dllama.errors import DllamaError, Failure, PeerError, let_go_of_frames

_RETRY_S = 2.0
"""Between two attempts to open it."""


class ReopenedSession:
    """Use it as a context manager: the model is open within it, but for the time after `lose`."""

    def __init__(
        self, options: ModelOptions, isa: str | None, patience_s: float | None, ending: Ending
    ) -> None:
        """`patience_s`: how long `reopen` tries; None: until Ctrl-C, or until `ending`."""
        self._options, self._isa, self._patience_s, self._ending = options, isa, patience_s, ending
        self._stack = contextlib.ExitStack()
        self._loss: Failure[PeerError] | None = None

    def __enter__(self) -> Session:
        """Raises what open_session raises."""
        return self._stack.enter_context(open_session(self._options, self._isa))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def is_open(self) -> bool:
        return self._loss is None

    def lose(self, error: PeerError) -> None:
        """Says why the model is gone, and lets go of what is left of it. Raises the error under mpiexec, where a
        lost process does not come back."""
        if self._options.job:
            raise error
        note(str(error))
        self._loss = Failure.of(error)
        let_go_of_frames(error)
        self._stack.close()

    def reopen(self) -> Session:
        """Tries until the model is there again. Raises KeyboardInterrupt, or why it was impossible until the end
        of patience."""
        assert self._loss is not None
        start_s, said = time.monotonic(), str(self._loss)
        note("waiting until all nodes are there again; Ctrl-C stops that, and the conversation is kept")
        while True:
            self._ending.check()
            try:
                session = self._stack.enter_context(open_session(self._options, self._isa, on_note=_ignore))
            except (DllamaError, OSError, MemoryError) as error:
                if self._patience_s is not None and time.monotonic() - start_s > self._patience_s:
                    raise
                let_go_of_frames(error)
                reason = with_flags(error) if isinstance(error, DllamaError) else str(error)
                if reason != said:
                    said = reason
                    note(reason)
            else:
                self._loss = None
                note("all nodes are there again")
                return session
            time.sleep(_RETRY_S)


def _ignore(_line: str) -> None:
    """What was chosen at first is chosen again."""
