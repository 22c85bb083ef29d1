"""`dllama chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from dllama.answers.chat_output import Thought
from dllama.checkpoint import read_suggested_sampling
from dllama.cli.chat_files import InputHistory, KeptChat, read_messages, state_directory, write_messages
from dllama.cli.chat_input import LineSource, PlainLines, inputs
from dllama.cli.console import PromptBar, note, show, show_thought
from dllama.cli.interrupts import Ending, interruptible, interrupts_raise
from dllama.cli.options import (
    add_model_flags,
    add_sampling_flags,
    model_options,
    sampling_options,
)
from dllama.cli.reopening import ReopenedSession
from dllama.cli.session import model_path
from dllama.cli.settings import with_flags
from dllama.cli.text_input import text_argument
from dllama.engine import Conversation, GenerationOptions
from dllama.errors import (
    ContextFullError,
    DllamaError,
    PeerError,
    SystemLimitError,
    TokenizerError,
    UsageError,
)
from dllama.tokenizer import ChatTemplate, Message

_HELP = '''\
/clear               forgets the conversation
/system TEXT         sets the system prompt; without TEXT there is none
/save FILE           writes the conversation as JSON
/load FILE           takes up a conversation that was saved
/help, /?            shows this
/exit, /quit, /bye   end the chat

"""  begins and ends a message of several lines (so does pasting them, or Alt-Enter between them).
Ctrl-C stops a reply, or clears what is half typed. A message that begins with a slash: put a space before it.'''

_PIPE_PATIENCE_S = 120.0
"""How long a lost node is waited for where nobody could stop it: a small computer starts in that time."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("chat", help="talk with a model")
    add_model_flags(parser)
    add_sampling_flags(parser)
    parser.add_argument("--system-prompt", type=text_argument, metavar="TEXT", help="who the model is to be")
    parser.add_argument(
        "--chat-template", metavar="NAME", help="a built-in template, or one of the model's by its name"
    )
    parser.add_argument(
        "--continue",
        dest="continues",
        action="store_true",
        help="go on with the last conversation; they are kept in ~/.local/state/dllama",
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> None:
    wanted = model_options(args)
    sampling = sampling_options(args, read_suggested_sampling(model_path(wanted)))
    options = GenerationOptions(sampling=sampling, speculate=args.speculate, progress=True)
    state = _state()
    kept = _Keeping(state / "chats" if state else None)
    messages = kept.take_up() if args.continues else []
    ending: Ending = args.ending
    source = _source(InputHistory(state / "chat_history") if state else None, ending)
    model = ReopenedSession(wanted, args.isa, None if source.is_person else _PIPE_PATIENCE_S, ending)
    with model as session:
        conversation = Conversation(
            session.new_engine(), ChatTemplate.of(session.tokenizer, args.chat_template)
        )
        conversation.take_up(messages)
        if args.system_prompt is not None:
            conversation.system = args.system_prompt
        note('/help shows the commands; """ begins and ends several lines; Ctrl-C stops a reply')
        chat = _Chat(conversation, model, kept, options, ending)
        for typed in inputs(source, lambda: note("(Ctrl-C once more ends the chat; so does /exit)")):
            if not typed.is_command:
                chat.answer(typed.text)
            elif not chat.command(typed.text):
                return
            ending.check()


def _state() -> Path | None:
    try:
        return state_directory(os.environ)
    except UsageError as error:
        note(with_flags(error))
        return None


def _source(history: InputHistory | None, ending: Ending) -> LineSource:
    """The keyboard where there is one, with a screen to show what is typed."""
    screen = next((stream for stream in (sys.stdout, sys.stderr) if stream.isatty()), None)
    if screen is None or not sys.stdin.isatty():
        return PlainLines()
    lines, add = (history.lines(), history.add) if history else ([], lambda line: None)
    source: LineSource = importlib.import_module("dllama.cli.terminal_line").TerminalLine(
        sys.stdin, screen, lines, add, ending
    )
    return source


class _Keeping:
    """Keeps the conversation for --continue, as far as this user's home allows; says once when it does not."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._chat = KeptChat(directory) if directory else None

    def take_up(self) -> list[Message]:
        """The messages of the last conversation, which is kept on from now. Raises UsageError when it is damaged."""
        found = KeptChat.latest(self._directory) if self._directory else None
        if found is None:
            note("(no conversation was kept before: this is a new one)")
            return []
        self._chat, messages = found
        last = " ".join(messages[-1]["content"].split()) if messages else ""
        note(f"(going on after {len(messages)} messages: {last[:60]}{'...' if len(last) > 60 else ''})")
        return messages

    def keep(self, conversation: Conversation) -> None:
        if self._chat and conversation.messages:
            try:
                self._chat.keep(conversation.messages)
            except DllamaError as error:
                note(f"(this conversation is not kept: {error})")
                self._chat = None

    def begin_anew(self, *, forget: bool) -> None:
        """Another conversation begins; the file of the one before goes or stays."""
        if self._chat and self._directory:
            if forget:
                self._chat.forget()
            self._chat = KeptChat(self._directory)


class _Chat:
    """Carries out what is typed."""

    def __init__(
        self,
        conversation: Conversation,
        model: ReopenedSession,
        kept: _Keeping,
        options: GenerationOptions,
        ending: Ending,
    ) -> None:
        self._conversation, self._model, self._kept, self._options = conversation, model, kept, options
        self._ending = ending
        self._commands: dict[str, Callable[[str], None]] = {
            "/clear": self._clear,
            "/system": self._system,
            "/save": self._save,
            "/load": self._load,
        }

    def answer(self, text: str) -> None:
        """Prints the reply. After the loss of a node it is begun anew when all are there again."""
        n_dropped = self._conversation.n_dropped_turns
        with interruptible() as interrupted:
            try:
                while self._is_ready():
                    try:
                        self._reply(text, interrupted)
                        break
                    except PeerError as error:
                        self._model.lose(error)
            except (ContextFullError, TokenizerError, SystemLimitError) as error:
                note(with_flags(error))
                return
            finally:
                self._kept.keep(self._conversation)
        n_dropped = self._conversation.n_dropped_turns - n_dropped
        if n_dropped:
            note(
                f"(the context is full: the oldest {n_dropped} of your messages and their replies were dropped)"
            )
        self._options = _next(self._options)

    def command(self, line: str) -> bool:
        """Carries out a line that begins with a slash; False ends the chat."""
        name, _, rest = line.partition(" ")
        if name in ("/exit", "/quit", "/bye"):
            return False
        if name in ("/help", "/?"):
            note(_HELP)
        elif name in self._commands:
            self._commands[name](rest.strip())
        else:
            note(
                f"(there is no command {name}: /help shows them; for a message, put a space before the slash)"
            )
        return True

    def _is_ready(self) -> bool:
        """Whether there is a model, if need be after waiting for it."""
        if self._model.is_open:
            return True
        try:
            with interrupts_raise():
                self._conversation.move_to(self._model.reopen().new_engine())
        except KeyboardInterrupt:
            note("(no longer waiting: your message has no answer, and the next one tries again)")
            return False
        return True

    def _reply(self, text: str, interrupted: list[None]) -> None:
        """Ends it where `interrupted` is filled."""
        bar = PromptBar()
        is_begun = has_thought = False
        try:
            for piece in self._conversation.reply(text, self._options):
                if isinstance(piece, Thought):
                    bar.hide()
                    has_thought = show_thought(piece.text)
                    is_begun |= has_thought
                elif isinstance(piece, str):
                    bar.hide()
                    show(f"\n\n{piece}" if has_thought else piece)
                    is_begun, has_thought = True, False
                else:
                    bar.show(piece.n_done, piece.n_total)
                self._ending.check()
                if interrupted:
                    break
        except PeerError:
            if is_begun:
                show("\n")
            raise
        finally:
            bar.hide()
        show("\n")

    def _clear(self, _rest: str) -> None:
        self._conversation.clear()
        self._kept.begin_anew(forget=True)
        note("(forgotten)")

    def _system(self, text: str) -> None:
        self._conversation.system = text or None
        note("(system prompt set)" if text else "(no system prompt)")

    def _save(self, name: str) -> None:
        if not name:
            note("(/save FILE: give the name of a file)")
            return
        try:
            write_messages(_path(name), self._conversation.messages)
        except DllamaError as error:
            note(with_flags(error))
        else:
            note(f"(saved to {name})")

    def _load(self, name: str) -> None:
        if not name:
            note("(/load FILE: give the name of a file that /save wrote)")
            return
        try:
            self._conversation.take_up(read_messages(_path(name)))
        except DllamaError as error:
            note(f"{name}: {error}" if name not in str(error) else str(error))
            return
        self._kept.begin_anew(forget=False)
        note(f"({len(self._conversation.messages)} messages of {name})")


def _next(options: GenerationOptions) -> GenerationOptions:
    """For the next reply: the same prompt may be answered otherwise then, also with a seed."""
    if options.sampling.seed is None:
        return options
    sampling = dataclasses.replace(options.sampling, seed=options.sampling.seed + 1)
    return dataclasses.replace(options, sampling=sampling)


def _path(name: str) -> Path:
    """With ~ for a home, where there is such a one."""
    return Path(os.path.expanduser(name))
