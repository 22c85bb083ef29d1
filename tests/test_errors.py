"""What errors say, and what is kept of them."""

from __future__ import annotations

import pytest

from dllama.errors import (
    DllamaError,
    Failure,
    PeerLostError,
    QueueFullError,
    context_full,
)
from dllama.server.errors import ApiError

EXAMPLES = [
    DllamaError("no"),
    PeerLostError("no", settings=("workers",)),
    QueueFullError("no", 3.0),
    ApiError("no", status=418, param="x", code="teapot", headers={"Retry-After": "5"}),
    context_full("the prompt", 9, 8),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_that_is_raised_again_says_and_knows_the_same(error: DllamaError) -> None:
    again = Failure.of(error).error("sorry: ")
    assert again is not error
    assert type(again) is type(error)
    assert str(again) == f"sorry: {error}"
    assert vars(again) == vars(error)


def test_what_is_too_long_for_the_context() -> None:
    error = context_full("messages[0]: it", "at least 9", 8)
    assert (
        str(error)
        == "messages[0]: it has at least 9 tokens and the context 8: shorten it, or take a longer context"
    )
    assert error.settings == ("max_seq_len",)
