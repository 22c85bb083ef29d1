"""What a system refuses that has no more threads or open files to give, said in a line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from dllama.errors import SystemLimitError

OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""accept(2): errors that pass when somebody gives something back."""

_NO_THREAD = "can't start new thread"
"""All that tells this RuntimeError of Python from others."""


@contextlib.contextmanager
def shortages_told() -> Iterator[None]:
    """Raises SystemLimitError in place of what Python and the system raise when threads or open files run out."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        raise SystemLimitError(
            "this computer allows no more threads here: end other programs, or raise the limit of processes "
            "(ulimit -u, a container's pids limit)"
        ) from error
    except OSError as error:
        if error.errno not in OUT_OF_ROOM:
            raise
        raise SystemLimitError(
            f"this computer allows no more open files or connections here ({(error.strerror or '').lower()}): raise "
            "the limit (ulimit -n)"
        ) from error
