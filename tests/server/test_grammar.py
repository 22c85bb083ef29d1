"""Grammars as the engine meets them."""

from __future__ import annotations

import numpy as np
import pytest

from dllama.engine import TokenConstraint
from dllama.errors import DllamaError
from dllama.server.errors import ApiError
from dllama.server.grammar import GrammarCompiler
from dllama.tokenizer import load_tokenizer
from support.processes import DEMO_MODEL

TOKENIZER = load_tokenizer(DEMO_MODEL)
PADDED_VOCAB = TOKENIZER.vocab_size + 13
"""Models have more logits than tokens."""


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER, PADDED_VOCAB)


def allowed_ids(constraint: TokenConstraint) -> list[int]:
    bits = constraint.allowed()
    assert bits is not None
    assert bits.shape == (-(-PADDED_VOCAB // 8),)
    return [int(i) for i in np.flatnonzero(np.unpackbits(bits, bitorder="little")[:PADDED_VOCAB])]


def test_a_schema_from_beginning_to_end(grammars: GrammarCompiler) -> None:
    constraint = grammars.json_schema({"enum": ["yes", "no"]}, "x")
    assert all(TOKENIZER.token_bytes(i).startswith(b'"') for i in allowed_ids(constraint))
    for token_id in TOKENIZER.encode('"yes"'):
        assert not constraint.is_finished
        assert token_id in allowed_ids(constraint)
        constraint.advance(token_id)
    assert constraint.is_finished
    assert sorted(allowed_ids(constraint)) == sorted(TOKENIZER.eos_ids)


def test_a_failure_ends_its_own_text_only(grammars: GrammarCompiler) -> None:
    """`advance` says so; `allowed`, which serves all texts of a step, never raises."""
    constraint = grammars.json_schema({"type": "integer"}, "x")
    with pytest.raises(DllamaError, match="cannot be followed"):
        constraint.advance(TOKENIZER.encode("x")[0])
    assert len(allowed_ids(constraint)) == PADDED_VOCAB


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "http://example.org/schema"},
        {"type": "string", "pattern": "("},
        {"not": {}},
    ],
)
def test_unsound_schemas(grammars: GrammarCompiler, schema: dict[str, object]) -> None:
    with pytest.raises(ApiError, match="response_format: ") as caught:
        grammars.json_schema(schema, "response_format")
    assert caught.value.status == 400


def test_json_is_written_on_one_line(grammars: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}
    constraint = grammars.json_schema(schema, "x")
    for token_id in TOKENIZER.encode('{"a": 1'):
        assert token_id in allowed_ids(constraint)
        constraint.advance(token_id)
    following = {TOKENIZER.token_bytes(i)[:1] for i in allowed_ids(constraint)}
    assert following == {*(str(n).encode() for n in range(10)), b",", b"}"}
