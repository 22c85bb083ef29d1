"""Text as it is generated, token by token, never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable

from dllama.tokenizer.base import Tokenizer


class StreamDecoder:
    """Gives the text of ids one at a time: the concatenation equals `tokenizer.decode` of them all.

    Bytes of a character wait until it is complete; they become U+FFFD once it is certain that it never will
    be. `continues`: the ids go on after earlier text, so that a leading space is the text's own. The special
    tokens `shown` add their names.
    """

    def __init__(self, tokenizer: Tokenizer, *, continues: bool = False, shown: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop_space = tokenizer.drops_leading_space and not continues

    def feed(self, token_id: int) -> str:
        """The text that became complete with this token; special tokens that are not shown add none."""
        if token_id not in self._shown and self._tokenizer.is_special(token_id):
            return ""
        token = self._tokenizer.token_bytes(token_id)
        if self._drop_space and token:
            self._drop_space = False
            token = token.removeprefix(b" ")
        return self._utf8.decode(token)

    def flush(self) -> str:
        """What is left of an unfinished character (U+FFFD); the next id begins a new one."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


def decode_all(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    stream = StreamDecoder(tokenizer)
    return "".join([stream.feed(token_id) for token_id in ids]) + stream.flush()


def bytes_of(tokenizer: Tokenizer, ids: Iterable[int], *, shows_special: bool) -> bytes:
    """As decode_all, but bytes that are no UTF-8 stay as they are, and special tokens may be there by name."""
    shown = [i for i in ids if shows_special or not tokenizer.is_special(i)]
    tokens = [tokenizer.token_bytes(token_id) for token_id in shown]
    first = next((place for place, token in enumerate(tokens) if token), None)
    if first is not None and tokenizer.drops_leading_space and not tokenizer.is_special(shown[first]):
        tokens[first] = tokens[first].removeprefix(b" ")
    return b"".join(tokens)
