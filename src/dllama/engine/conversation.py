"""A chat: messages become a prompt by the model's template, and what is cached of it is not computed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from dllama.answers.chat_output import Thought, chat_output, mark_ids
from dllama.engine.engine import Engine
from dllama.engine.request import Event, Failed, GenerationOptions, PromptProgress, TextDelta
from dllama.errors import DllamaError, UsageError, context_full
from dllama.tokenizer import ChatTemplate, Message, Rendered

_MIN_REPLY_TOKENS = 256
"""Room for a reply that old turns make way for; a quarter of the context where that is less."""


class Conversation:
    """One person's messages and the model's replies; the engine's pages still hold what was computed of them."""

    def __init__(self, engine: Engine, template: ChatTemplate, system: str | None = None) -> None:
        self._engine = engine
        self._template = template
        self._turns: list[Message] = []
        self.system = system
        self.n_dropped_turns = 0

    @property
    def messages(self) -> list[Message]:
        return [*self._system(), *self._turns]

    def clear(self) -> None:
        """Forgets all messages but the system prompt."""
        self._turns = []
        self.n_dropped_turns = 0

    def take_up(self, messages: Sequence[Message]) -> None:
        """Goes on from `messages`, such as another conversation's were. Raises UsageError for what is none: turns of
        user and assistant after at most one system message."""
        has_system = bool(messages) and messages[0].get("role") == "system"
        turns = list(messages[has_system:])
        roles = [message.get("role") for message in turns]
        if len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
            raise UsageError(
                "these are not messages of user and assistant in turn, at most one of system before them"
            )
        self.system = messages[0]["content"] if has_system else None
        self._turns = turns
        self.n_dropped_turns = 0

    def move_to(self, engine: Engine) -> None:
        """Goes on with another engine over the same model: all is computed there once more."""
        self._engine = engine

    def reply(self, text: str, options: GenerationOptions) -> Iterator[str | Thought | PromptProgress]:
        """Answers `text`; yields the reply's text as it comes, whole characters only, before it what the model thinks,
        and before that how far the prompt is computed, with `options.progress`.

        Old turns, the oldest first, are dropped for good where the context has no room (n_dropped_turns counts
        them). Ends at the model's end token or when the context is full. What was said until then becomes part of
        the conversation, without what was thought, also when the caller stops early. Raises ContextFullError when
        not even this one message fits, TokenizerError when the template refuses it, SystemLimitError when there is no
        process to render it in, PeerError when a node is lost. After an error, and when the caller stops before
        anything was said, the conversation is as it was.
        """
        turns, prompt = self._fitting([*self._turns, {"role": "user", "content": text}])
        output = chat_output(self._template, prompt.text)
        shown, end_ids = mark_ids(self._template)
        options = dataclasses.replace(options, end_ids=self._template.end_ids | end_ids, shown=shown)
        prompt_ids = self._template.tokenizer.encode_parts(prompt.parts)
        pieces: list[str] = []
        events: list[Event] = []
        is_complete = False
        request = self._engine.submit(prompt_ids, options, events.append)
        try:
            while self._engine.has_work:
                self._engine.step()
                for event in events:
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, PromptProgress):
                        yield event
                    elif isinstance(event, TextDelta):
                        for piece in output.feed(event.text):
                            if isinstance(piece, str):
                                pieces.append(piece)
                            yield piece
                events.clear()
            for piece in output.end():
                if isinstance(piece, str):
                    pieces.append(piece)
                yield piece
            is_complete = True
        except DllamaError:
            pieces.clear()
            raise
        finally:
            self._engine.cancel(request)
            if is_complete or pieces:
                self.n_dropped_turns += (len(self._turns) + 1 - len(turns)) // 2
                self._turns = [*turns, {"role": "assistant", "content": "".join(pieces)}]

    def _fitting(self, turns: list[Message]) -> tuple[list[Message], Rendered]:
        """What is left of `turns` when the oldest have made way, and the prompt of it all."""
        limit = self._engine.max_seq_len
        reserve = min(_MIN_REPLY_TOKENS, limit // 4)
        while True:
            prompt = self._template.rendered([*self._system(), *turns], add_generation_prompt=True)
            n_ids = len(self._template.tokenizer.encode_parts(prompt.parts))
            if n_ids + reserve <= limit:
                return turns, prompt
            if len(turns) < 3:
                break
            turns = turns[2:]
        if n_ids < limit:
            return turns, prompt
        raise context_full("this message", n_ids, limit)

    def _system(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []
