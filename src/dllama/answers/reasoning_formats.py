"""How models of different families mark what they think before they answer, as data.

From the templates and tokenizers of the models themselves: DeepSeek R1, QwQ, Qwen 3, SmolLM 3, MiniMax, GLM and many
others; Mistral's; Seed's; Kimi's; Cohere's; Gemma 4's; those of fine-tunes.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from dllama.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ReasoningFormat:
    """`opener` thought `closer` answer."""

    opener: str
    closer: str

    def token_ids(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        """The ids of those of both that are a token of their own, or begin with one."""
        ids = {name: _token_id(name, tokenizer) for name in (self.opener, self.closer)}
        return {name: token_id for name, token_id in ids.items() if token_id is not None}


class Stage(enum.Enum):
    """Where an answer is, or begins after its prompt."""

    MAY_THINK = enum.auto()
    THINKS = enum.auto()
    ANSWERS = enum.auto()


REASONING_FORMATS = (
    ReasoningFormat("<think>", "</think>"),
    ReasoningFormat("[THINK]", "[/THINK]"),
    ReasoningFormat("<seed:think>", "</seed:think>"),
    ReasoningFormat("◁think▷", "◁/think▷"),
    ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningFormat("<|channel>thought\n", "<channel|>"),
    ReasoningFormat("<thinking>", "</thinking>"),
    ReasoningFormat("<thought>", "</thought>"),
    ReasoningFormat("<reasoning>", "</reasoning>"),
)


def reasoning_format_of(template: str, tokenizer: Tokenizer) -> ReasoningFormat | None:
    """The format that a chat template's source writes, else one whose marks are tokens; None for models that do not
    think."""
    written = (known for known in REASONING_FORMATS if known.closer in template)
    spelled = (known for known in REASONING_FORMATS if len(known.token_ids(tokenizer)) == 2)
    return next(written, None) or next(spelled, None)


def stage_after(prompt: str, reasoning: ReasoningFormat) -> Stage:
    """Where the answer begins: some templates open the thought, some close it at once (`enable_thinking` false)."""
    prompt = prompt.rstrip()
    if prompt.endswith(reasoning.opener.rstrip()):
        return Stage.THINKS
    return Stage.ANSWERS if prompt.endswith(reasoning.closer) else Stage.MAY_THINK


def stage_within(answer: str, reasoning: ReasoningFormat) -> Stage:
    """Where an answer is that has begun with `answer`."""
    begins = answer.lstrip()
    if not begins or reasoning.opener.startswith(begins):
        return Stage.MAY_THINK
    thinks = begins.startswith(reasoning.opener) and reasoning.closer not in begins
    return Stage.THINKS if thinks else Stage.ANSWERS


def _token_id(name: str, tokenizer: Tokenizer) -> int | None:
    if name in tokenizer.special_tokens:
        return tokenizer.special_tokens[name]
    for mark, token_id in tokenizer.special_tokens.items():
        if mark.endswith(">") and name.startswith(mark):
            return token_id
    # Before it may stand the space that SentencePiece begins texts with.
    token_id = tokenizer.encode(name)[-1]
    return token_id if tokenizer.token_bytes(token_id) == name.encode() else None
