"""What a chat request says of tools and of the form of its answer."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence

from dllama.answers.reasoning_formats import Stage
from dllama.answers.tool_formats import ID_LETTERS, PLAIN, JsonCalls, TaggedCalls, ToolFormat, tool_format_of
from dllama.server.answer_schema import AnswerSchema, answer_schema
from dllama.server.errors import ApiError
from dllama.server.grammar import GrammarConstraint
from dllama.server.harmony_grammar import harmony_schema_grammar, harmony_tool_grammar
from dllama.server.prompt import ChatPrompt, chat_template
from dllama.server.request_parts import NamedToolChoice, Tool
from dllama.server.requests import ChatRequest
from dllama.server.served import ServedModel
from dllama.server.tool_grammar import tool_grammar


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """`tools` are those that the model is told of, `offered` those that it may call, or has to (`must_call`);
    `tool_format` None: the answer is text, whatever is in it."""

    tools: tuple[Tool, ...] = ()
    offered: tuple[Tool, ...] = ()
    tool_format: ToolFormat | None = None
    must_call: bool = False
    parallel: bool = False
    schema: AnswerSchema | None = None

    def grammar(self, served: ServedModel, prompt: ChatPrompt) -> str | None:
        """Of the whole answer where that `has_channels`, else of what comes after the thought; None where the schema
        says it all."""
        special_tokens = served.tokenizer.special_tokens
        functions = [tool.function for tool in self.offered]
        if prompt.has_channels and self.tool_format is not None:
            return harmony_tool_grammar(functions, special_tokens, prompt.stage, must_call=self.must_call)
        if prompt.has_channels and self.schema is not None and prompt.stage is not Stage.ANSWERS:
            return harmony_schema_grammar(self.schema.schema, special_tokens)
        if self.tool_format is None:
            return None
        assert isinstance(self.tool_format, JsonCalls | TaggedCalls)
        return tool_grammar(
            self.tool_format, functions, special_tokens, must_call=self.must_call, parallel=self.parallel
        )

    async def constraints(
        self, served: ServedModel, grammar: str | None, n: int
    ) -> Sequence[GrammarConstraint | None]:
        """One for each of `n` choices; `grammar` as above. Raises ApiError for a schema that is unsound or takes too
        long."""
        if grammar is not None:
            param = self.schema.param if self.schema is not None else "tools"
            return await asyncio.wrap_future(served.grammars.lark(grammar, param, n))
        return await schema_constraints(self.schema, served, n)

    def shown(self, served: ServedModel) -> frozenset[int]:
        """The special tokens that calls are written with."""
        if self.tool_format is None:
            return frozenset()
        written = self.tool_format.all_text
        special = served.tokenizer.special_tokens
        return frozenset(token_id for name, token_id in special.items() if name in written)


def answer_form(body: ChatRequest, served: ServedModel) -> AnswerForm:
    """Raises ApiError for a choice that the tools do not allow."""
    choice = body.tool_choice or "auto"
    tools = tuple(body.tools or ())
    if not tools:
        if choice == "required" or isinstance(choice, NamedToolChoice):
            raise ApiError("tool_choice wants a call, but there are no tools", param="tool_choice")
        return AnswerForm(schema=answer_schema(body))
    if choice == "none":
        return AnswerForm(schema=answer_schema(body), tools=tools)
    offered = tools
    if isinstance(choice, NamedToolChoice):
        offered = tuple(tool for tool in tools if tool.function.name == choice.function.name)
        if not offered:
            raise ApiError(f"tool_choice: there is no tool {choice.function.name!r}", param="tool_choice")
    elif choice == "auto" and (wanted := answer_schema(body)) is not None:
        raise ApiError(f"{wanted.param} and tools do not go together", param=wanted.param)
    tool_format = tool_format_of(chat_template(served, with_tools=True).source) or PLAIN
    return AnswerForm(
        tools=tools,
        offered=offered,
        tool_format=tool_format,
        must_call=choice != "auto",
        parallel=body.parallel_tool_calls is not False and not isinstance(choice, NamedToolChoice),
    )


async def schema_constraints(
    wanted: AnswerSchema | None, served: ServedModel, n: int
) -> Sequence[GrammarConstraint | None]:
    """One for each of `n` texts. Raises ApiError for a schema that is unsound or takes too long."""
    if wanted is None:
        return [None] * n
    return await asyncio.wrap_future(served.grammars.json_schema(wanted.schema, wanted.param, n))


def new_call_id(tool_format: ToolFormat) -> str:
    if tool_format.id_length is None:
        return f"call_{secrets.token_hex(12)}"
    return "".join(secrets.choice(ID_LETTERS) for _ in range(tool_format.id_length))
