"""A command at the other end of a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.processes import DLLAMA, TIMEOUT_S, environment

_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a script, where it is ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also under nohup
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its Ctrl-C reaches this session
os.execv(sys.argv[1], sys.argv[1:])
"""

_CONTROLS = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
_LOOK_S = 0.5
"""How soon one sees that the command has ended."""

PASTE = ("\x1b[200~", "\x1b[201~")
"""What a terminal sends before and after text that is pasted."""


class Terminal:
    """What a person types and sees."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int, screen: int) -> None:
        self.process = process
        self._keyboard, self._screen = keyboard, screen
        self._seen = b""

    def type(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def paste(self, text: str) -> None:
        self.type(text.join(PASTE))

    def wait_for(self, text: str) -> str:
        """What came up to and with `text`, without the sequences that move a cursor or colour."""
        return _CONTROLS.sub("", self.wait_raw(text))

    def wait_raw(self, text: str) -> str:
        """The same with these sequences."""
        deadline = time.monotonic() + TIMEOUT_S
        wanted = text.encode()
        while wanted not in self._seen:
            has_ended = self.process.poll() is not None
            if select.select([self._keyboard], [], [], 0 if has_ended else _LOOK_S)[0]:
                self._seen += os.read(self._keyboard, 4096)
            else:
                assert not has_ended, f"it ended without {text!r}: {self._seen!r}"
            assert time.monotonic() < deadline, f"no {text!r} in {self._seen!r}"
        before, _, self._seen = self._seen.partition(wanted)
        return (before + wanted).decode()

    def end(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(TIMEOUT_S)

    def echoes(self) -> bool:
        """Whether what is typed is shown and read by lines, as it was when the command began."""
        local_modes = termios.tcgetattr(self._screen)[3]
        return bool(local_modes & termios.ECHO and local_modes & termios.ICANON)


@contextlib.contextmanager
def terminal(
    folder: Path, *arguments: object, env: Mapping[str, str] | None = None, n_columns: int = 80
) -> Iterator[Terminal]:
    """`dllama ARGUMENTS`, run in `folder`. It is killed at the end, if it still runs."""
    keyboard, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, n_columns, 0, 0))
    given = environment({"TERM": "xterm", "XDG_STATE_HOME": str(folder / "state")} | dict(env or {}))
    command = [sys.executable, "-c", _TAKE_TERMINAL, *DLLAMA, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=screen, stdout=screen, stderr=screen, env=given, cwd=folder, start_new_session=True
    ) as process:
        try:
            yield Terminal(process, keyboard, screen)
        finally:
            process.kill()
            os.close(screen)
            os.close(keyboard)
