"""Text to token ids and back, and conversations to the ids that a model was trained on."""

from dllama.tokenizer.base import Tokenizer
from dllama.tokenizer.chat import ChatTemplate, Message
from dllama.tokenizer.load import load_tokenizer
from dllama.tokenizer.stream import StreamDecoder

__all__ = [
    "ChatTemplate",
    "Message",
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
]
