"""How models of different families write calls of tools, as data.

From the templates of the models themselves: gpt-oss, Qwen 3 Coder and 3.5, GLM 4.5 and later, MiniMax M2, Kimi K2,
DeepSeek V3.1, Llama 3.1 to 3.3, Qwen 2.5 and 3 (the format of Hermes), Mistral with tokenizers of version 3 and later.
"""

from __future__ import annotations

import dataclasses
import re
import string

ID_LETTERS = string.ascii_letters + string.digits

_JSON_NAME = '{"name": "'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """`opener` call (`separator` call)* `closer`.

    telltale      what only templates of this format have in them
    opener        begins the calls, after any text; without one, only an answer that begins with a call has calls
    max_calls     in one answer; None for any number
    id_length     how long the template wants ids to be (letters and digits); None where it does not care
    """

    name: str
    telltale: str
    opener: str = ""
    separator: str = ""
    closer: str = ""
    max_calls: int | None = None
    id_length: int | None = None

    @property
    def all_text(self) -> str:
        """Everything that calls are written with, but for names and arguments."""
        return "\n".join([self.opener, self.separator, self.closer])


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonCalls(ToolFormat):
    """A call is `before_name` NAME `before_arguments` JSON `after`.

    is_numbered   after NAME stand a colon and a number, and `id_lead`, NAME and both are the call's id
    """

    before_name: str = _JSON_NAME
    before_arguments: str = '", "arguments": '
    after: str = "}"
    is_numbered: bool = False
    id_lead: str = ""

    @property
    def all_text(self) -> str:
        return "\n".join([super().all_text, self.before_name, self.before_arguments, self.after])

    @property
    def head(self) -> re.Pattern[str]:
        """A call up to its arguments; its groups are the name and, where it `is_numbered`, the number. Calls are
        always written exactly so: a grammar sees to it (see tool_grammar.py)."""
        number = ":([0-9]+)" if self.is_numbered else "()"
        return re.compile(
            f"{re.escape(self.before_name)}([a-zA-Z0-9_.:/-]+){number}{re.escape(self.before_arguments)}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedCalls(ToolFormat):
    """A call is `before_name` NAME `after_name` (`before_key` KEY `after_key` VALUE `after_value`)* `after`, where a
    value is text as it is, or JSON."""

    before_name: str = ""
    after_name: str = ""
    before_key: str
    after_key: str
    after_value: str
    after: str

    @property
    def all_text(self) -> str:
        tags = (
            self.before_name,
            self.after_name,
            self.before_key,
            self.after_key,
            self.after_value,
            self.after,
        )
        return "\n".join([super().all_text, *tags])


JSON_FORMATS = (
    JsonCalls(
        name="kimi",
        telltale="<|tool_calls_section_begin|>",
        opener="<|tool_calls_section_begin|>",
        before_name="<|tool_call_begin|>functions.",
        before_arguments="<|tool_call_argument_begin|>",
        after="<|tool_call_end|>",
        closer="<|tool_calls_section_end|>",
        is_numbered=True,
        id_lead="functions.",
    ),
    JsonCalls(
        name="deepseek 3.1",
        telltale="['name'] + '<｜tool▁sep｜>'",
        opener="<｜tool▁calls▁begin｜>",
        before_name="<｜tool▁call▁begin｜>",
        before_arguments="<｜tool▁sep｜>",
        after="<｜tool▁call▁end｜>",
        closer="<｜tool▁calls▁end｜>",
    ),
    JsonCalls(
        name="mistral 11",
        telltale="[ARGS]",
        opener="[TOOL_CALLS]",
        before_name="",
        before_arguments="[ARGS]",
        after="",
        separator="[TOOL_CALLS]",
        id_length=9,
    ),
    JsonCalls(
        name="mistral 3 (tekken)",
        telltale="[TOOL_CALLS][",
        opener="[TOOL_CALLS][",
        separator=", ",
        closer="]",
        id_length=9,
    ),
    JsonCalls(
        name="mistral 3",
        telltale="[TOOL_CALLS]",
        opener="[TOOL_CALLS] [",
        separator=", ",
        closer="]",
        id_length=9,
    ),
    JsonCalls(
        name="qwen",
        telltale="<tool_call>",
        opener="<tool_call>\n",
        separator="\n</tool_call>\n<tool_call>\n",
        closer="\n</tool_call>",
    ),
    JsonCalls(
        name="llama 3",
        telltale='"parameters": dictionary',
        before_arguments='", "parameters": ',
        max_calls=1,
    ),
)

TAGGED_FORMATS = (
    TaggedCalls(
        name="qwen coder",
        telltale="<function=",
        opener="<tool_call>\n",
        before_name="<function=",
        after_name=">\n",
        before_key="<parameter=",
        after_key=">\n",
        after_value="\n</parameter>\n",
        after="</function>",
        separator="\n</tool_call>\n<tool_call>\n",
        closer="\n</tool_call>",
    ),
    TaggedCalls(
        name="glm 4.7",
        telltale="</arg_key><arg_value>",
        opener="<tool_call>",
        before_key="<arg_key>",
        after_key="</arg_key><arg_value>",
        after_value="</arg_value>",
        after="</tool_call>",
        separator="<tool_call>",
    ),
    TaggedCalls(
        name="glm 4.5",
        telltale="<arg_key>",
        opener="<tool_call>",
        after_name="\n",
        before_key="<arg_key>",
        after_key="</arg_key>\n<arg_value>",
        after_value="</arg_value>\n",
        after="</tool_call>",
        separator="\n<tool_call>",
    ),
    TaggedCalls(
        name="minimax",
        telltale="<minimax:tool_call>",
        opener="<minimax:tool_call>\n",
        before_name='<invoke name="',
        after_name='">\n',
        before_key='<parameter name="',
        after_key='">',
        after_value="</parameter>\n",
        after="</invoke>\n",
        closer="</minimax:tool_call>",
    ),
)

HARMONY = ToolFormat(name="harmony", telltale="<|channel|>", max_calls=1)
"""gpt-oss's: a call is a message of its own (see harmony.py)."""

TOOL_FORMATS: tuple[ToolFormat, ...] = (HARMONY, *TAGGED_FORMATS, *JSON_FORMATS)

PLAIN = next(tool_format for tool_format in JSON_FORMATS if tool_format.name == "qwen")
"""For templates that know nothing of tools: dllama tells the model of them itself."""


def tool_format_of(template: str) -> ToolFormat | None:
    """The format that a chat template's source speaks of; None when it knows no tools."""
    return next((known for known in TOOL_FORMATS if known.telltale in template), None)
