"""`dllama chat` over a pipe, and in a terminal with its keys."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dllama.tokenizer import load_tokenizer
from support.processes import DEMO_MODEL, WorkerPool, WorkerProcess, run_dllama, run_well, worker_processes
from support.terminal import Terminal, terminal

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


def test_other_slashes_are_no_messages(tmp_path: Path) -> None:
    lines = ["/help", "/?", "/save", "/load", "/save absent/x.json", "/hlep", "/load absent.json", "/exit"]
    done = run_well(*CHAT, stdin="\n".join(lines), cwd=tmp_path)
    assert done.out == ""
    assert done.err.count("/clear               forgets the conversation") == 2
    for fragment in (
        "/save FILE",
        "/load FILE",
        "cannot write absent/x.json",
        "no command /hlep",
        "absent.json",
    ):
        assert fragment in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["/exit", "/bye", "/quit"])
def test_ways_to_end(command: str) -> None:
    assert run_well(*CHAT, stdin=f"{command}\nHello!").out == ""


def test_messages_of_several_lines(tmp_path: Path) -> None:
    """Between three quotes everything is text, and the end of the input ends it too. A space before a slash makes a
    message of it."""
    lines = [
        '"""one',
        "/exit",
        "",
        "  three  ",
        'four"""',
        '"""five"""',
        " /six is no command",
        '"""',
        "seven",
    ]
    run_well(*CHAT, stdin="\n".join(lines), cwd=tmp_path, env={"XDG_STATE_HOME": str(tmp_path)})
    (kept,) = (tmp_path / "dllama" / "chats").iterdir()
    users = [text for role, text in saved(kept) if role == "user"]
    assert users == ["one\n/exit\n\n  three  \nfour", "five", "/six is no command", "seven"]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    """And changes nothing: what is saved after it is the same file, and the conversation goes on as it would have."""
    first = run_well(
        *CHAT, stdin="/system Be kind.\nHello!\n/save a.json\nAnd you?\n/save c.json\n", cwd=tmp_path
    )
    lines = "Forget this.\n/load a.json\n/save b.json\nAnd you?\n/save d.json\n"
    second = run_well(*CHAT, stdin=lines, cwd=tmp_path)
    assert "(3 messages of a.json)" in second.err
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    assert (tmp_path / "d.json").read_text() == (tmp_path / "c.json").read_text()
    assert second.out.splitlines()[-1] == first.out.splitlines()[-1]


BAD_FILES = {
    "nothing.json": b"",
    "binary.json": b"\xff\xfe\x00",
    "deep.json": b"[" * 100_000,
    "long.json": b"[" + b"9" * 10_000 + b"]",
    "object.json": b"{}",
    "number.json": b"[1]",
    "roles.json": b'[{"role": "user", "content": "Hello"}]',
    "tools.json": b'[{"role": "user", "content": [{"type": "text"}]}]',
}


def test_files_that_are_no_conversations(tmp_path: Path) -> None:
    """Each gives one line that names it, and the conversation is as it was."""
    for name, content in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "fifo.json")
    names = [*BAD_FILES, "fifo.json", "."]
    lines = ["Hello!", *(f"/load {name}" for name in names), "/save a.json"]
    done = run_well(*CHAT, stdin="\n".join(lines), cwd=tmp_path)
    for name in names:
        assert sum(line.startswith((f"{name} ", f"{name}: ")) for line in done.err.splitlines()) == 1, name
    assert len(saved(tmp_path / "a.json")) == 2


# Kept conversations


def test_a_conversation_is_kept_and_taken_up(tmp_path: Path) -> None:
    """By its owner alone; in one file as it goes on; `--continue` takes the last one that was spoken in."""
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}

    def chat(lines: str, *arguments: str) -> str:
        return run_well(*CHAT, *arguments, stdin=lines, cwd=tmp_path, env=env).err

    chat("/system Be kind.\nHello!")
    chat("What is your name?")
    assert "going on after 2 messages" in chat("/save a.json\nThank you.", "--continue")
    users = [text for role, text in saved(tmp_path / "a.json") if role == "user"]
    assert users == ["What is your name?"]
    kept = sorted((tmp_path / "state" / "dllama" / "chats").iterdir())
    assert sorted(len(saved(path)) for path in kept) == [3, 4]
    for path in (tmp_path / "state").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    chat("/clear", "--continue")
    assert len(list(kept[0].parent.iterdir())) == 1
    chat("/save b.json", "--continue")
    assert saved(tmp_path / "b.json")[:2] == [("system", "Be kind."), ("user", "Hello!")]
    chat("/save c.json", "--continue", "--system-prompt", "Be brief.")
    assert saved(tmp_path / "c.json")[0] == ("system", "Be brief.")


def test_nothing_was_kept(tmp_path: Path) -> None:
    """Then a new conversation begins; a home that cannot be written to is said once and costs nothing else."""
    done = run_well(*CHAT, "--continue", stdin="", env={"XDG_STATE_HOME": str(tmp_path)})
    assert "no conversation was kept before" in done.err
    file = tmp_path / "file"
    file.touch()
    done = run_well(*CHAT, stdin="Hello!\nHow are you?\n", env={"XDG_STATE_HOME": str(file)})
    assert len(done.out.splitlines()) == 2
    assert done.err.count("this conversation is not kept") == 1


def test_a_kept_conversation_that_is_damaged(tmp_path: Path) -> None:
    chats = tmp_path / "dllama" / "chats"
    chats.mkdir(parents=True)
    (chats / "a.json").write_text("[")
    done = run_dllama(*CHAT, "--continue", env={"XDG_STATE_HOME": str(tmp_path)})
    assert done.code == 2
    assert str(chats / "a.json") in done.error_line


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    chats = tmp_path / "dllama" / "chats"
    chats.mkdir(parents=True)
    for number in range(25):
        (chats / f"{number}.json").write_text("[]")
        os.utime(chats / f"{number}.json", (number, number))
    run_well(*CHAT, stdin="Hello!", env={"XDG_STATE_HOME": str(tmp_path)})
    names = {path.name for path in chats.iterdir()}
    assert len(names) == 20
    assert {f"{number}.json" for number in range(6, 25)} < names


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


@contextlib.contextmanager
def chatting(folder: Path, *arguments: object, term: str = "xterm") -> Iterator[Terminal]:
    """A chat at its first prompt. Its kernels are the slowest, so that a reply takes long enough to be stopped."""
    with terminal(folder, *CHAT, *arguments, env={"TERM": term, "DLLAMA_ISA": "scalar"}) as chat:
        chat.wait_for("> ")
        yield chat


def save(chat: Terminal, name: str) -> None:
    """Saves the conversation and waits for the next prompt."""
    chat.type(f"/save {name}\r")
    chat.wait_for(f"(saved to {name})")
    chat.wait_for("> ")


TERMS = pytest.mark.parametrize("term", ["xterm", "dumb"])


@TERMS
@pytest.mark.slow
def test_keys(term: str, tmp_path: Path) -> None:
    """Left, backspace, home, end; upwards in the history, which the next chat still has; the end of input."""
    with chatting(tmp_path, term=term) as chat:
        chat.type("Helo?\x1b[D\x1b[Dl\x05\x7f!\x01Oh. \r")
        chat.wait_for("\r\n")
        chat.wait_for("> ")
        save(chat, "a.json")
        chat.type("\x1b[A\x1b[A again\r")
        chat.wait_for("\r\n")
        chat.wait_for("> ")
        save(chat, "a.json")
        chat.type("\x04")
        assert chat.end() == 0
        assert chat.echoes()
    users = [text for role, text in saved(tmp_path / "a.json") if role == "user"]
    assert users == ["Oh. Hello!", "Oh. Hello! again"]
    history = tmp_path / "state" / "dllama" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with chatting(tmp_path, term=term) as chat:
        chat.type("\x1b[A\r")
        chat.wait_for("(saved to a.json)")
        chat.wait_for("> ")
        chat.type("/exit\r")
        assert chat.end() == 0
    assert saved(tmp_path / "a.json") == []


@TERMS
@pytest.mark.slow
def test_what_is_pasted_is_one_message(term: str, tmp_path: Path) -> None:
    """With Return after it; whatever is in it; also between the quotes, and as a message that has several lines in
    the history."""
    with chatting(tmp_path, term=term) as chat:
        for paste in ("one\n/exit\n\n\tthree\n", '/exit\nis "what" I typed', '"""', 'quoted"""'):
            chat.paste(paste)
            chat.type("\r")
            chat.wait_for("\r\n")
            chat.wait_for("... " if paste == '"""' else "> ")
        save(chat, "a.json")
        chat.type("/exit\r")
        assert chat.end() == 0
    users = [text for role, text in saved(tmp_path / "a.json") if role == "user"]
    assert users == ["one\n/exit\n\n\tthree", '/exit\nis "what" I typed', "quoted"]


def test_ctrl_c_stops_a_reply_and_the_chat_goes_on(tmp_path: Path) -> None:
    """The reply is drawn so hot that it hardly ever ends by itself. What was said until then stays."""
    with chatting(tmp_path, "--temperature", 100, "--topp", 1, "--seed", 3, term="dumb") as chat:
        chat.type("Tell me a story.\r")
        chat.wait_for("story.\r\r\n")
        chat.wait_for(" ")  # the reply has begun
        chat.type("\x03")
        chat.wait_for("\r\n> ")
        save(chat, "a.json")
        user, reply = saved(tmp_path / "a.json")
        assert user == ("user", "Tell me a story.")
        assert 0 < len(TOKENIZER.encode(reply[1])) < 700
        chat.type("/exit\r")
        assert chat.end() == 0


@TERMS
def test_ctrl_c_at_the_prompt(term: str, tmp_path: Path) -> None:
    """It clears a half-typed line, also within quotes; on an empty one it asks, and the second one in a row ends."""
    with chatting(tmp_path, term=term) as chat:
        chat.type("half\x03")
        chat.wait_for("half")
        chat.wait_for("> ")
        chat.type("\x03")
        chat.wait_for("Ctrl-C once more ends the chat")
        chat.wait_for("> ")
        chat.type('"""begun\r')
        chat.wait_for("... ")
        chat.type("\x03")
        chat.wait_for("> ")
        save(chat, "a.json")
        assert saved(tmp_path / "a.json") == []
        for _ in range(2):
            chat.type("\x03")
            chat.wait_for("\r\n")
        assert chat.end() == 130
        assert chat.echoes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals, tmp_path: Path) -> None:
    """And the conversation is kept."""
    with chatting(tmp_path) as chat:
        chat.type("Hello!\r")
        chat.wait_for("\r\n")
        chat.wait_for("> ")
        chat.process.send_signal(number)
        if number == signal.SIGINT:
            chat.wait_for("Ctrl-C once more ends the chat")
            chat.wait_for("> ")
            chat.process.send_signal(number)
        assert chat.end() == 128 + number
        assert chat.echoes()
    (kept,) = (tmp_path / "state" / "dllama" / "chats").iterdir()
    assert saved(kept)[0] == ("user", "Hello!")


# A worker is lost


def begun_again(worker: WorkerProcess) -> WorkerProcess:
    """Another one on the port of a worker that was killed."""
    return WorkerProcess("--port", worker.address.rpartition(":")[2])


@pytest.mark.slow
def test_a_lost_worker_is_waited_for(tmp_path: Path) -> None:
    """The message is answered when it is there again, with the same words as without the loss."""
    with worker_processes(1) as (worker,), chatting(tmp_path, "--workers", worker.address) as chat:
        chat.type("Hello!\r")
        chat.wait_for("\r\n")
        chat.wait_for("> ")
        worker.kill()
        chat.type("What is your name?\r")
        chat.wait_for(f"lost worker {worker.address}")
        chat.wait_for("waiting until all nodes are there again")
        with begun_again(worker):
            chat.wait_for("all nodes are there again\r\n")
            chat.wait_for("> ")
            save(chat, "a.json")
            chat.type("/exit\r")
            assert chat.end() == 0
    lines = "Hello!\nWhat is your name?\n/save b.json\n"
    run_well(*CHAT, "--buffer-float-type", "q80", stdin=lines, cwd=tmp_path)
    assert saved(tmp_path / "a.json")[::2] == saved(tmp_path / "b.json")[::2]
    assert all(text for _, text in saved(tmp_path / "a.json"))


def test_waiting_for_a_worker_can_be_stopped(tmp_path: Path) -> None:
    """The conversation stays, and the next message tries again."""
    with worker_processes(1) as (worker,), chatting(tmp_path, "--workers", worker.address) as chat:
        chat.type("Hello!\r")
        chat.wait_for("\r\n")
        chat.wait_for("> ")
        worker.kill()
        chat.type("Are you there?\r")
        chat.wait_for("waiting until all nodes are there again")
        chat.type("\x03")
        chat.wait_for("no longer waiting")
        chat.wait_for("> ")
        save(chat, "a.json")
        assert [text for role, text in saved(tmp_path / "a.json") if role == "user"] == ["Hello!"]
        with begun_again(worker):
            chat.type("And now?\r")
            chat.wait_for("all nodes are there again\r\n")
            chat.wait_for("> ")
            save(chat, "b.json")
        users = [text for role, text in saved(tmp_path / "b.json") if role == "user"]
        assert users == ["Hello!", "And now?"]


pytestmark = pytest.mark.skipif(not hasattr(pty, "openpty"), reason="no pseudo-terminals here")
