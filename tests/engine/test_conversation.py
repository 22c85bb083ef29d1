"""A chat: only what is new is computed, old turns make way, and what was said stays said."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

import pytest

from dllama.answers.chat_output import Thought
from dllama.engine import Conversation, Engine, GenerationOptions, PromptProgress, SamplingOptions
from dllama.errors import ContextFullError, PeerLostError, UsageError
from dllama.tokenizer import ChatTemplate, Tokenizer, load_tokenizer
from support.fake_executor import FakeExecutor
from support.processes import DEMO_MODEL

GREEDY = GenerationOptions(sampling=SamplingOptions(temperature=0))
CONTEXT = 128
TOKENIZER: Tokenizer = load_tokenizer(DEMO_MODEL)


class Parrot:
    """Replies with the tokens of `reply`, then an end token, whatever it is asked."""

    def __init__(self, reply: str) -> None:
        self.reply = reply

    def __call__(self, text: list[int]) -> int:
        ids = [*TOKENIZER.encode(self.reply), TOKENIZER.eos_ids[0]]
        opening = TOKENIZER.special_tokens["<|end_header_id|>"]
        start = len(text) - 1 - text[::-1].index(opening)
        n_header = 1 + len(TOKENIZER.encode("\n\n"))
        return ids[len(text) - start - n_header]


class Talk:
    """A conversation with a parrot."""

    def __init__(
        self, reply: str = "Hello there.", context: int = CONTEXT, system: str | None = None
    ) -> None:
        self.parrot = Parrot(reply)
        self.executor = FakeExecutor(
            self.parrot, vocab_size=TOKENIZER.vocab_size, n_pages=-(-context // 16), page_size=16, max_rows=64
        )
        self.engine = Engine(self.executor, TOKENIZER, max_seq_len=context)
        self.conversation = Conversation(self.engine, ChatTemplate.of(TOKENIZER), system)

    def use(self, template: ChatTemplate) -> None:
        self.conversation = Conversation(self.engine, template)

    def say(self, text: str) -> tuple[str, int]:
        """The reply, and how many rows it took."""
        before = self.executor.n_computed
        reply = "".join(piece for piece in self.conversation.reply(text, GREEDY) if isinstance(piece, str))
        return reply, self.executor.n_computed - before

    @property
    def roles_and_texts(self) -> list[tuple[str, str]]:
        return [(message["role"], message["content"]) for message in self.conversation.messages]


def n_rendered(messages: list[Mapping[str, str]]) -> int:
    return len(ChatTemplate.of(TOKENIZER).render(messages, add_generation_prompt=True))


def test_replies_become_messages() -> None:
    talk = Talk(system="Be kind.")
    assert talk.say("Hi")[0] == "Hello there."
    talk.parrot.reply = "I am fine."
    assert talk.say("How are you?")[0] == "I am fine."
    assert talk.roles_and_texts == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello there."),
        ("user", "How are you?"),
        ("assistant", "I am fine."),
    ]


def test_only_new_tokens_are_computed() -> None:
    """The first turn costs its prompt and its reply; the next one the end token of the reply before, which enters
    the cache with it, and what it adds."""
    talk = Talk()
    n_reply = len(TOKENIZER.encode("Hello there."))
    first = n_rendered([*talk.conversation.messages, {"role": "user", "content": "Hi"}])
    assert talk.say("Hi") == ("Hello there.", first + n_reply)
    n_cached = first + n_reply
    second = n_rendered([*talk.conversation.messages, {"role": "user", "content": "Again"}])
    assert talk.say("Again") == ("Hello there.", second - n_cached + n_reply)


def test_a_repeated_prompt_computes_its_last_token_again() -> None:
    """A prompt that is all in the cache needs one row, for its logits."""
    talk = Talk()
    talk.say("Hi")
    talk.conversation.clear()
    n_reply = len(TOKENIZER.encode("Hello there."))
    assert talk.say("Hi") == ("Hello there.", 1 + n_reply)


def test_another_system_prompt_begins_anew() -> None:
    talk = Talk()
    talk.say("Hi")
    talk.conversation.system = "Be brief."
    n_prompt = n_rendered([*talk.conversation.messages, {"role": "user", "content": "Bye"}])
    reply, n_rows = talk.say("Bye")
    assert reply == "Hello there."
    assert n_prompt - 3 <= n_rows - len(TOKENIZER.encode(reply)) <= n_prompt  # all, or all but the beginning


def test_clear_keeps_the_system_prompt() -> None:
    talk = Talk(system="Be kind.")
    talk.say("Hi")
    talk.conversation.clear()
    assert talk.roles_and_texts == [("system", "Be kind.")]
    assert talk.conversation.n_dropped_turns == 0


def test_the_oldest_turns_make_way() -> None:
    talk = Talk(system="Be kind.")
    for number in range(20):
        assert talk.say(f"This is message {number}, and it says nothing.")[0] == "Hello there."
        assert len(talk.conversation.messages) < 20
    assert talk.conversation.n_dropped_turns > 10
    roles = [role for role, _ in talk.roles_and_texts]
    n_kept = (len(roles) - 1) // 2
    assert roles == ["system"] + ["user", "assistant"] * n_kept
    kept = [text for role, text in talk.roles_and_texts if role == "user"]
    assert kept == [f"This is message {n}, and it says nothing." for n in range(20 - n_kept, 20)]
    assert n_kept + talk.conversation.n_dropped_turns == 20


def test_a_message_that_fits_nowhere_changes_nothing() -> None:
    talk = Talk()
    talk.say("Hi")
    talk.say("How are you?")
    before = talk.roles_and_texts
    with pytest.raises(ContextFullError, match=rf"tokens and the context {CONTEXT}: .*longer context"):
        talk.say("many words " * 200)
    assert talk.roles_and_texts == before
    assert talk.say("Hi again")[0] == "Hello there."


def test_a_reply_ends_where_the_context_does() -> None:
    talk = Talk(reply="and so on " * 200)
    reply, _ = talk.say("Tell me")
    assert reply.startswith("and so on and so on")
    assert len(talk.conversation.messages) == 2
    talk.parrot.reply = "Hello there."
    assert talk.say("Hi")[0] == "Hello there."  # the long reply has made way
    assert talk.conversation.n_dropped_turns == 1


def test_an_interrupted_reply_stays_as_far_as_it_went() -> None:
    talk = Talk(reply="one two three four five six")
    pieces = talk.conversation.reply("Count", GREEDY)
    said = next(pieces) + next(pieces)
    pieces.close()
    assert talk.roles_and_texts == [("user", "Count"), ("assistant", said)]
    talk.parrot.reply = "Hello there."
    assert talk.say("Hi")[0] == "Hello there."
    assert len(talk.conversation.messages) == 4


def test_characters_come_whole() -> None:
    talk = Talk(reply="naïve 🙂 日本")
    pieces = list(talk.conversation.reply("Hi", GREEDY))
    assert "".join(pieces) == "naïve 🙂 日本"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_lost_node_leaves_the_conversation_as_it_was() -> None:
    """Also in the middle of a reply, and when old turns had made way for it; another engine goes on."""
    talk = Talk(reply="one two three four five six")
    for number in range(8):
        talk.say(f"This is message {number}, and it says nothing.")
    before, n_dropped = talk.roles_and_texts, talk.conversation.n_dropped_turns
    pieces = talk.conversation.reply("Count", GREEDY)
    next(pieces)

    def lose(_text: list[int]) -> int:
        raise PeerLostError("lost worker")

    talk.executor._next_token = lose
    with pytest.raises(PeerLostError):
        list(pieces)
    assert talk.roles_and_texts == before
    assert talk.conversation.n_dropped_turns == n_dropped
    other = Talk()
    talk.conversation.move_to(other.engine)
    assert "".join(talk.conversation.reply("Count", GREEDY)) == "Hello there."
    assert talk.roles_and_texts[-2:] == [("user", "Count"), ("assistant", "Hello there.")]


def test_the_prompt_is_seen_to_be_computed_and_can_be_stopped() -> None:
    """Nothing was said then, so nothing is in the conversation."""
    talk = Talk(context=512)
    options = dataclasses.replace(GREEDY, progress=True)
    message = "many words " * 60
    parts = list(talk.conversation.reply(message, options))
    progress = [(part.n_done, part.n_total) for part in parts if isinstance(part, PromptProgress)]
    n_prompt = n_rendered([{"role": "user", "content": message}])
    assert progress == [(done, n_prompt) for done in range(64, n_prompt, 64)]
    assert "".join(part for part in parts if isinstance(part, str)) == "Hello there."
    talk.conversation.clear()
    talk.say("Hi")
    before = talk.roles_and_texts
    stopped = talk.conversation.reply("other words " * 60, options)
    assert isinstance(next(stopped), PromptProgress)
    stopped.close()
    assert talk.roles_and_texts == before
    assert talk.say("Hi again")[0] == "Hello there."


def test_messages_are_taken_up() -> None:
    """What another conversation holds, with or without a system prompt, and nothing else."""
    first = Talk(system="Be kind.")
    first.say("Hi")
    second = Talk()
    second.say("Bye")
    second.conversation.take_up(first.conversation.messages)
    assert second.roles_and_texts == first.roles_and_texts
    second.say("Again")
    first.say("Again")
    assert second.roles_and_texts == first.roles_and_texts
    second.conversation.take_up([])
    assert second.roles_and_texts == []
    user, assistant = ({"role": role, "content": "x"} for role in ("user", "assistant"))
    for messages in (
        [user],
        [assistant, user],
        [user, user],
        [user, assistant, {"role": "system", "content": "x"}],
    ):
        with pytest.raises(UsageError):
            second.conversation.take_up(messages)
    assert second.roles_and_texts == []


@pytest.mark.parametrize(
    ("marks", "reply"),
    [
        ("<think></think>", "<think>\nWhy not.\n</think>\n\nYes."),
        (
            "<|channel|>final<|message|>",
            "<|channel|>analysis<|message|>Why not.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        ),
    ],
)
def test_thoughts_are_told_apart_and_not_kept(marks: str, reply: str) -> None:
    talk = Talk(reply, context=256)
    with contextlib.closing(
        ChatTemplate(f"{{# {marks} #}}{ChatTemplate.of(TOKENIZER).source}", TOKENIZER)
    ) as template:
        talk.use(template)
        pieces = list(talk.conversation.reply("Hm?", GREEDY))
        assert "".join(piece.text for piece in pieces if isinstance(piece, Thought)) == "Why not."
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == "Yes."
        assert talk.roles_and_texts == [("user", "Hm?"), ("assistant", "Yes.")]
        stopped = talk.conversation.reply("And?", GREEDY)
        assert isinstance(next(stopped), Thought)
        stopped.close()
        assert talk.roles_and_texts == [("user", "Hm?"), ("assistant", "Yes.")]
