"""Text to token ids and back, and conversations to the ids that a model was trained on."""

from dllama.tokenizer.base import Tokenizer
from dllama.tokenizer.builtin_templates import BUILTIN_TEMPLATES
from dllama.tokenizer.chat import ChatTemplate, Message, Rendered
from dllama.tokenizer.convert import convert_tokenizer
from dllama.tokenizer.fit import check_vocab
from dllama.tokenizer.load import load_tokenizer
from dllama.tokenizer.stream import StreamDecoder

__all__ = [
    "BUILTIN_TEMPLATES",
    "ChatTemplate",
    "Message",
    "Rendered",
    "StreamDecoder",
    "Tokenizer",
    "check_vocab",
    "convert_tokenizer",
    "load_tokenizer",
]
