"""`dllama chat` over a pipe, and in a terminal with its keys."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dllama.tokenizer import load_tokenizer
from support.processes import DEMO_MODEL, DLLAMA, TIMEOUT_S, WorkerPool, environment, run_well

TOKENIZER = load_tokenizer(DEMO_MODEL)
CHAT = ("chat", "--model", DEMO_MODEL, "--nthreads", 1, "--temperature", 0)


def saved(path: Path) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in json.loads(path.read_text())]


# Over a pipe


def test_several_turns(tmp_path: Path, pool: WorkerPool) -> None:
    lines = [
        "Hello!",
        "/save first.json",
        "  What is your name?  ",
        "",
        "/save second.json",
        "/exit",
        "not said",
    ]
    texts = []
    for workers in ([], ["--workers", *pool.addresses(2)]):
        done = run_well(*CHAT, "--buffer-float-type", "f32", *workers, stdin="\n".join(lines), cwd=tmp_path)
        first, second = saved(tmp_path / "first.json"), saved(tmp_path / "second.json")
        assert first[0] == ("user", "Hello!")
        assert [role for role, _ in second] == ["user", "assistant"] * 2
        assert second[:2] == first
        assert second[2] == ("user", "What is your name?")
        assert done.out == f"{second[1][1]}\n{second[3][1]}\n"
        assert "(saved to first.json)" in done.err
        assert "<|" not in done.out  # the end of a turn is no text
        texts.append(done.out)
    assert texts[0] == texts[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json", "second.json"]


def test_clear_and_system(tmp_path: Path) -> None:
    lines = [
        "Hello!",
        "/clear",
        "/system You are a cat.",
        "Hello!",
        "/save a.json",
        "/system",
        "/clear",
        "Hello!",
        "/save b.json",
    ]
    done = run_well(*CHAT, "--system-prompt", "Be kind.", stdin="\n".join(lines), cwd=tmp_path)
    messages = saved(tmp_path / "a.json")
    assert messages[:2] == [("system", "You are a cat."), ("user", "Hello!")]
    assert len(messages) == 3
    assert [role for role, _ in saved(tmp_path / "b.json")] == ["user", "assistant"]
    for line in ("(forgotten)", "(system prompt set)", "(no system prompt)"):
        assert line in done.err


def test_other_slashes_show_what_there_is(tmp_path: Path) -> None:
    done = run_well(*CHAT, stdin="/help\n/save\n/save absent/x.json\n/exit\n", cwd=tmp_path)
    assert done.out == ""
    assert done.err.count("/clear forgets the conversation") == 3
    assert "cannot write absent/x.json" in done.err
    assert list(tmp_path.iterdir()) == []


def test_text_of_any_characters(tmp_path: Path) -> None:
    text = "naïve 日本語 🙂‍🙂 <|eot_id|> \t end"
    done = run_well(*CHAT, stdin=f"{text}\n/save a.json\n", cwd=tmp_path)
    messages = saved(tmp_path / "a.json")
    assert messages[0] == ("user", text)
    assert done.out == messages[1][1] + "\n"


def test_long_lines_and_a_full_context(tmp_path: Path) -> None:
    """A line far beyond 2047 bytes is whole; one beyond the context is refused and the chat goes on; old turns
    make way, and it says so."""
    long_line = "I like cats and dogs. " * 100
    lines = [long_line, "/save a.json", "too long " * 3000, long_line, "Hello!", "/save b.json"]
    done = run_well(*CHAT, stdin="\n".join(lines), cwd=tmp_path)
    assert saved(tmp_path / "a.json")[0] == ("user", long_line.strip())
    assert "this message has" in done.err
    assert "the context is full: the oldest 1 of your messages" in done.err
    assert saved(tmp_path / "b.json")[-2] == ("user", "Hello!")


# In a terminal


class Terminal:
    """A chat at the other end of a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.process = process
        self._keyboard = keyboard
        self._seen = b""

    def type(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def wait_for(self, text: str) -> str:
        """What came up to and with `text`."""
        deadline = time.monotonic() + TIMEOUT_S
        wanted = text.encode()
        while wanted not in self._seen:
            remaining_s = deadline - time.monotonic()
            assert remaining_s > 0, f"no {text!r} in {self._seen!r}"
            if select.select([self._keyboard], [], [], remaining_s)[0]:
                try:
                    self._seen += os.read(self._keyboard, 4096)
                except OSError as error:  # Linux: the other end is closed
                    raise AssertionError(f"no {text!r} in {self._seen!r}") from error
        before, _, self._seen = self._seen.partition(wanted)
        return (before + wanted).decode()


_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a script, where it is ignored
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that its Ctrl-C reaches this session
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def terminal(folder: Path, *arguments: object) -> Iterator[Terminal]:
    """A chat at its first prompt. Its kernels are the slowest, so that a reply takes long enough to be stopped."""
    keyboard, screen = pty.openpty()
    env = environment({"TERM": "dumb", "XDG_STATE_HOME": str(folder / "state"), "DLLAMA_ISA": "scalar"})
    command = [sys.executable, "-c", _TAKE_TERMINAL, *DLLAMA, *map(str, (*CHAT, *arguments))]
    with subprocess.Popen(
        command, stdin=screen, stdout=screen, stderr=screen, env=env, cwd=folder, start_new_session=True
    ) as process:
        os.close(screen)
        try:
            chat = Terminal(process, keyboard)
            chat.wait_for("> ")
            yield chat
        finally:
            process.kill()
            os.close(keyboard)


def test_keys(tmp_path: Path) -> None:
    """Left, backspace, home, end; upwards in the history, which the next chat still has; the end of input."""
    with terminal(tmp_path) as chat:
        chat.type("Helo?\x1b[D\x1b[Dl\x05\x7f!\x01Oh. \r")
        chat.wait_for("> ")
        chat.type("/save a.json\r")
        chat.wait_for("(saved to a.json)")
        chat.wait_for("> ")
        chat.type("\x1b[A\x1b[A again\r")
        chat.wait_for("> ")
        chat.type("/save a.json\r")
        chat.wait_for("(saved to a.json)")
        chat.wait_for("> ")
        chat.type("\x04")
        assert chat.process.wait(TIMEOUT_S) == 0
    users = [text for role, text in saved(tmp_path / "a.json") if role == "user"]
    assert users == ["Oh. Hello!", "Oh. Hello! again"]
    with terminal(tmp_path) as chat:
        chat.type("\x1b[A\r")
        chat.wait_for("(saved to a.json)")
        chat.wait_for("> ")
        chat.type("/exit\r")
        assert chat.process.wait(TIMEOUT_S) == 0
    assert saved(tmp_path / "a.json") == []


def test_ctrl_c_stops_a_reply_and_the_chat_goes_on(tmp_path: Path) -> None:
    """The reply is drawn so hot that it hardly ever ends by itself. What was said until then stays."""
    with terminal(tmp_path, "--temperature", 100, "--topp", 1, "--seed", 3) as chat:
        chat.type("Tell me a story.\r")
        chat.wait_for("story.\r\n")
        chat.wait_for(" ")  # the reply has begun
        chat.type("\x03")
        chat.wait_for("\r\n> ")
        chat.type("/save a.json\r")
        chat.wait_for("(saved to a.json)")
        user, reply = saved(tmp_path / "a.json")
        assert user == ("user", "Tell me a story.")
        assert 0 < len(TOKENIZER.encode(reply[1])) < 700
        chat.wait_for("> ")
        chat.type("/exit\r")
        assert chat.process.wait(TIMEOUT_S) == 0


def test_ctrl_c_at_the_prompt_ends_the_chat(tmp_path: Path) -> None:
    """Python's line editor may miss a Ctrl-C in the instant between its prompt and its wait for keys; a person
    presses again, and so does this test."""
    with terminal(tmp_path) as chat:
        for _ in range(5):
            chat.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert chat.process.wait(TIMEOUT_S / 5) == 130
                return
        pytest.fail("the chat goes on")


pytestmark = pytest.mark.skipif(not hasattr(pty, "openpty"), reason="no pseudo-terminals here")
