"""Chat templates by name, for tokenizers that come without one.

The formats are public: Llama 2 and 3 (Meta's model cards), ChatML (Qwen), DeepSeek R1, Mistral 7B Instruct, Gemma.
`special_tokens` and `add_bos` are the tokenizer's own.
"""

from __future__ import annotations

from dllama.errors import TokenizerError
from dllama.tokenizer.base import Tokenizer

_LLAMA_2 = """\
{%- set system = '' -%}
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message.content.strip() + ' [/INST]' -}}
    {%- elif message.role == 'assistant' -%}
        {{- ' ' + message.content.strip() + ' ' + eos_token -}}
    {%- else -%}
        {{- raise_exception('llama2 knows system (first), user and assistant, not ' + message.role) -}}
    {%- endif -%}
{%- endfor -%}
"""

_LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
    {{- message.content.strip() + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

_CHATML = """\
{%- if add_bos -%}{{- bos_token -}}{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_DEEPSEEK_3 = """\
{{- bos_token -}}
{%- for message in messages if message.role == 'system' -%}
    {{- message.content -}}
{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '<｜User｜>' + message.content -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<｜Assistant｜>' + message.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<｜Assistant｜><think>\\n' -}}
{%- endif -%}
"""

# Where [INST] is a token of its own (version 3 and later), no space stands on its inner side.
_MISTRAL = """\
{%- set gap = '' if '[INST]' in special_tokens else ' ' -%}
{%- set system = '' -%}
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = messages[0].content + '\\n\\n' -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '[INST]' + gap + (system if loop.first else '') + message.content + gap + '[/INST]' -}}
    {%- elif message.role == 'assistant' -%}
        {{- gap + message.content.strip() + eos_token -}}
    {%- else -%}
        {{- raise_exception('mistral knows system (first), user and assistant, not ' + message.role) -}}
    {%- endif -%}
{%- endfor -%}
"""

_GEMMA = """\
{%- set system = '' -%}
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = messages[0].content + '\\n\\n' -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role in ('user', 'assistant') -%}
        {{- '<start_of_turn>' + ('user' if message.role == 'user' else 'model') + '\\n' -}}
        {{- (system if loop.first else '') + message.content.strip() + '<end_of_turn>\\n' -}}
    {%- else -%}
        {{- raise_exception('gemma knows system (first), user and assistant, not ' + message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""

BUILTIN_TEMPLATES = {
    "llama2": _LLAMA_2,
    "llama3": _LLAMA_3,
    "deepSeek3": _DEEPSEEK_3,
    "chatml": _CHATML,
    "mistral": _MISTRAL,
    "gemma": _GEMMA,
}

_TELLING_TOKENS = {
    "<|start_header_id|>": "llama3",
    "<|im_start|>": "chatml",
    "<｜Assistant｜>": "deepSeek3",
    "<start_of_turn>": "gemma",
    "[INST]": "mistral",
    "<s>": "llama2",
}


def guess_template(tokenizer: Tokenizer) -> str:
    """The name of the built-in template whose special tokens the vocabulary has."""
    for token, name in _TELLING_TOKENS.items():
        if token in tokenizer.special_tokens:
            return name
    raise TokenizerError(
        "the tokenizer has no chat template and its vocabulary suggests none; "
        f"choose one of {', '.join(BUILTIN_TEMPLATES)}",
        settings=("chat_template",),
    )
