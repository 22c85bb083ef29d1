"""Standard streams that are closed, full or left, in encodings that lack characters; Ctrl-C at its worst moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.processes import DEMO_MODEL, DLLAMA, TIMEOUT_S, Finished, environment

INFO = ("info", str(DEMO_MODEL))
CHAT = ("chat", "--model", str(DEMO_MODEL), "--nthreads", "1", "--temperature", "0")


def redirected(
    arguments: tuple[str, ...],
    redirection: str = "",
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    folder: Path | None = None,
) -> Finished:
    """Runs dllama with a shell's redirections."""
    script = f'exec "$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *DLLAMA, *arguments],
        input=stdin,
        capture_output=True,
        env=environment({"XDG_STATE_HOME": str(folder)} | dict(env or {})),
        timeout=TIMEOUT_S,
        check=False,
    )
    return Finished(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


@pytest.mark.parametrize("arguments", [INFO, ("--version",)], ids=["info", "version"])
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")],
    ids=["closed", "full"],
)
def test_results_that_cannot_be_written(arguments: tuple[str, ...], redirection: str, reason: str) -> None:
    """One line says so, and it is no success."""
    done = redirected(arguments, redirection)
    assert done.err == f"dllama: standard output: {reason}\n"
    assert done.code == 1


def test_a_reader_that_has_gone_is_told_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*DLLAMA, *INFO], stdout=writer, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-"])
def test_notes_that_cannot_be_written_and_input_that_is_closed(redirection: str, tmp_path: Path) -> None:
    """Results come all the same. The numbers of closed streams are not those of a socket or a file."""
    prompt = ("inference", *CHAT[1:], "--prompt", "Once upon a time", "--steps", "8", "--stream")
    done = redirected(prompt, redirection)
    assert done.code == 0
    assert len(done.out) > 5


def test_characters_that_a_terminal_lacks(tmp_path: Path) -> None:
    """They are question marks on the screen, and bytes that are no text are read as U+FFFD. Nothing ends."""
    lines = f"日本 naïve\n/save {tmp_path}/a.json\n".encode()
    done = redirected(CHAT, "", {"PYTHONIOENCODING": "ascii"}, lines, tmp_path)
    assert done.code == 0, done
    assert done.out.isascii()
    lines = f"caf\xe9 \xff\n/save {tmp_path}/a.json\n".encode("latin-1")
    done = redirected(CHAT, "", {"LC_ALL": "C"}, lines, tmp_path)
    assert done.code == 0, done
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved[0] == {"role": "user", "content": "caf\ufffd \ufffd"}


def test_a_prompt_that_is_no_text() -> None:
    done = redirected(("inference", *CHAT[1:], "--prompt"), "\"$(printf '\\377')\"")
    assert done.code == 2
    assert "--prompt" in done.error_line
    assert "UTF-8" in done.error_line


def test_ctrl_c_while_the_program_is_imported() -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", *DLLAMA[1:], *INFO],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "numpy" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in err
    assert (process.returncode, out) == (130, "")
