"""`dllama chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from dllama.cli.console import note
from dllama.cli.options import (
    add_model_flags,
    add_sampling_flags,
    model_options,
    sampling_options,
)
from dllama.cli.session import open_session
from dllama.engine import Conversation, GenerationOptions
from dllama.errors import ContextFullError, DllamaError
from dllama.formats.atomic import write_atomically
from dllama.tokenizer import ChatTemplate

try:
    import readline
except ImportError:  # some Pythons are built without it; lines can then be typed but not edited
    readline = None  # type: ignore[assignment]

_COMMANDS = "/clear forgets the conversation, /system TEXT sets the system prompt, /save FILE, /exit"
_HISTORY_LINES = 1000


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("chat", help="talk with a model")
    add_model_flags(parser)
    add_sampling_flags(parser)
    parser.add_argument("--system-prompt", metavar="TEXT", help="who the model is to be")
    parser.add_argument(
        "--chat-template", metavar="NAME", help="a built-in template in place of the model's own"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    options = GenerationOptions(sampling=sampling_options(args), speculate=args.speculate)
    with open_session(model_options(args), args.isa) as session:
        template = ChatTemplate.of(session.tokenizer, args.chat_template)
        conversation = Conversation(session.engine, template, args.system_prompt)
        note(f"{_COMMANDS}; Ctrl-C stops a reply")
        with contextlib.closing(template), _history():
            for line in _lines():
                if line.startswith("/"):
                    if not _command(line, conversation):
                        return
                elif line:
                    _answer(line, conversation, options)
                    options = _next(options)


def _next(options: GenerationOptions) -> GenerationOptions:
    """For the next reply: the same prompt may be answered otherwise then, also with a seed."""
    if options.sampling.seed is None:
        return options
    sampling = dataclasses.replace(options.sampling, seed=options.sampling.seed + 1)
    return dataclasses.replace(options, sampling=sampling)


def _answer(line: str, conversation: Conversation, options: GenerationOptions) -> None:
    n_dropped = conversation.n_dropped_turns
    try:
        with _interruptible() as interrupted:
            for piece in conversation.reply(line, options):
                sys.stdout.write(piece)
                sys.stdout.flush()
                if interrupted:
                    break
    except ContextFullError as error:
        note(str(error))
        return
    print()
    n_dropped = conversation.n_dropped_turns - n_dropped
    if n_dropped:
        note(f"(the context is full: the oldest {n_dropped} of your messages and their replies were dropped)")


def _command(line: str, conversation: Conversation) -> bool:
    """Carries out a line that begins with a slash; False ends the chat."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/exit":
        return False
    if name == "/clear":
        conversation.clear()
        note("(forgotten)")
    elif name == "/system":
        conversation.system = rest or None
        note("(system prompt set)" if rest else "(no system prompt)")
    elif name == "/save" and rest:
        try:
            with write_atomically(Path(rest).expanduser()) as file:
                file.write(json.dumps(conversation.messages, ensure_ascii=False, indent=1).encode())
        except DllamaError as error:
            note(str(error))
        else:
            note(f"(saved to {rest})")
    else:
        note(_COMMANDS)
    return True


def _lines() -> Iterator[str]:
    """What is typed, line by line, without surrounding white space, until the end of the input."""
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            yield input("> " if is_terminal else "").strip()
        except EOFError:
            if is_terminal:
                print()
            return


@contextlib.contextmanager
def _interruptible() -> Iterator[list[None]]:
    """Within it the first Ctrl-C only fills the list, so that a step under way is finished; a second one ends
    the program."""
    interrupted: list[None] = []

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(None)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Lines of earlier chats, in the user's state directory (XDG base directory specification)."""
    if readline is None or not sys.stdin.isatty():
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(state).expanduser() / "dllama" / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY_LINES)
        with contextlib.suppress(OSError):  # a home that cannot be written costs only the history
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
