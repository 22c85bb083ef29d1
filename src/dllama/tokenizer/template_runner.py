"""Runs a chat template in processes of its own, which end with their limits of time and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dllama.errors import SystemLimitError, TokenizerError
from dllama.host.limited_process import killed_from_outside, passed_its_time, start_limited
from dllama.host.pipes import read_exactly, write_all
from dllama.tokenizer import template_process
from dllama.tokenizer.template_process import LENGTH, Limits

_PROGRAM = Path(template_process.__file__)

_PATIENCE_S = 30.0
"""By the clock, where processors are busy."""

_LARGE_BYTES = 1 << 20
"""A request that leaves its process with memory which it would keep: that one is not asked again."""

_MOST_IDLE = 1
"""Processes of which one takes some 20 MB, kept while nobody asks: others save 0.1 s, where several ask at once."""


class TemplateRunner:
    """Renders one template. Several threads may ask at once: each has a process for as long as it needs one.

    Processes are started when they are needed (0.1 s). One is kept for the next rendering, and ended by `close`.
    """

    def __init__(self, source: str, constants: Mapping[str, Any], limits: Limits) -> None:
        """`constants` are variables that every rendering has; all variables are what JSON can say."""
        self._limits = limits
        self._set_up = _message(
            {"source": source, "constants": dict(constants), "limits": dataclasses.asdict(limits)}
        )
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end_all, self._idle)

    def render(self, variables: Mapping[str, Any], now: datetime.datetime) -> str:
        """Raises TokenizerError with the template's own words, or with the limit that it passed; SystemLimitError where
        no process can be started, or where it gets no time or is killed by others."""
        request = _message({"variables": dict(variables), "now": now.isoformat()})
        until_s = time.monotonic() + _PATIENCE_S
        try:
            answer = self._answer(request, self._idle_process(), until_s)
            if answer is None:
                answer = self._answer(request, None, until_s)
        except TimeoutError:
            raise SystemLimitError(
                "this computer is too busy to render the conversation: try again later"
            ) from None
        if answer is None:
            raise SystemLimitError(
                "the process that renders conversations was killed, perhaps for want of memory: try again later"
            )
        if "error" in answer:
            raise TokenizerError(answer["error"])
        return answer["text"]

    def close(self) -> None:
        """Ends the processes. A later rendering starts new ones."""
        _end_all(self._idle)

    def _answer(
        self, request: bytes, process: subprocess.Popen[bytes] | None, until_s: float
    ) -> dict[str, str] | None:
        """That of `process`, or of a new one; None when somebody killed it before it answered. Raises TokenizerError
        when it ended by itself."""
        to_send = request
        if process is None:
            process, to_send = start_limited(_PROGRAM, "the chat template"), self._set_up + request
        try:
            answer = _ask(process, to_send, until_s)
        except BaseException:
            _end(process)
            raise
        if answer is None:
            _end(process)
            if killed_from_outside(process.returncode):
                return None
            raise TokenizerError(self._why_it_ended(process.returncode))
        if len(request) > _LARGE_BYTES or not self._keep(process):
            _end(process)
        return answer

    def _keep(self, process: subprocess.Popen[bytes]) -> bool:
        with self._lock:
            is_kept = len(self._idle) < _MOST_IDLE
            if is_kept:
                self._idle.append(process)
        return is_kept

    def _idle_process(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is not None and process.poll() is not None:  # somebody killed it
            _end(process)
            return None
        return process

    def _why_it_ended(self, code: int) -> str:
        if passed_its_time(code):
            return f"the chat template was ended: it computed for more than {self._limits.time_s:g} s"
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"the chat template was ended {how}, perhaps for want of memory"


def _ask(process: subprocess.Popen[bytes], request: bytes, until_s: float) -> dict[str, str] | None:
    """The answer; None when the process ended before it. Raises TimeoutError."""
    answers = _pipe(process.stdout)
    with contextlib.suppress(BrokenPipeError):
        write_all(_pipe(process.stdin), request, until_s)
    header = read_exactly(answers, LENGTH.size, until_s)
    content = read_exactly(answers, LENGTH.unpack(header)[0], until_s) if header else None
    answer: dict[str, str] | None = json.loads(content) if content else None
    return answer


def _message(content: Mapping[str, Any]) -> bytes:
    data = json.dumps(content).encode()
    return LENGTH.pack(len(data)) + data


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    while processes:
        _end(processes.pop())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    _pipe(process.stdin).close()
    _pipe(process.stdout).close()
    process.wait()
