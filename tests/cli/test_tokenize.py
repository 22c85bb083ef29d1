"""`dllama tokenize`: ids of what comes over standard input, every byte of it, and back."""

from __future__ import annotations

import json

import pytest

from dllama.tokenizer import load_tokenizer
from support.processes import DEMO_MODEL, Finished, run_dllama, run_well

TEXT = "Once upon a time, 12345!\r\n\tnaïve 你好 👩‍👧 \ufeff<|eot_id|> end\n\n"
TOKENIZER = load_tokenizer(DEMO_MODEL)
EOT = TOKENIZER.special_tokens["<|eot_id|>"]


def tokenize(*flags: str, stdin: str | bytes) -> Finished:
    return run_dllama("tokenize", "--tokenizer", DEMO_MODEL, *flags, stdin=stdin)


@pytest.mark.parametrize("flags", [(), ("--no-special",)])
def test_ids_and_back(flags: tuple[str, ...]) -> None:
    given = "\ufeff" + TEXT
    plain = tokenize(*flags, stdin=given)
    as_json = tokenize("--json", *flags, stdin=given)
    ids = json.loads(as_json.out)
    special = not flags
    assert ids == TOKENIZER.encode(given, add_bos=special, parse_special=special)
    assert ids.count(EOT) == special
    assert plain.out == " ".join(map(str, ids)) + "\n"
    for printed in (plain.out, as_json.out):
        assert tokenize("--decode", *flags, stdin=printed).out == given


def test_special_tokens_are_left_out_of_a_text() -> None:
    assert tokenize("--decode", "--no-special", stdin=f"[{EOT}, {ord('A') - ord('!')}]").out == "A"
    assert tokenize("--decode", stdin=f"{EOT}").out == "<|eot_id|>"


def test_half_a_character_stays_bytes() -> None:
    ids = TOKENIZER.encode("👩")
    assert len(ids) > 1
    assert tokenize("--decode", stdin=str(ids[0])).out.encode(
        errors="surrogateescape"
    ) == TOKENIZER.token_bytes(ids[0])


def test_nothing() -> None:
    assert json.loads(tokenize("--json", stdin="").out) == [TOKENIZER.bos_id]
    assert tokenize("--no-special", stdin="").out == "\n"
    assert tokenize("--decode", stdin="").out == ""


@pytest.mark.parametrize(
    ("flags", "stdin", "fragments"),
    [
        ((), b"abc\xff", ("standard input", "not UTF-8", "byte 3")),
        (("--decode",), "1 two 3", ("'two'", "token id")),
        (("--decode",), "1 -2", ("'-2'", "token id")),
        (("--decode",), "4294967297", ("'4294967297'", f"0 to {TOKENIZER.vocab_size - 1}")),
        (("--decode",), "٣", ("token id",)),
        (("--decode", "--json"), "1", ("--json", "--decode")),
    ],
)
def test_bad_input(flags: tuple[str, ...], stdin: str | bytes, fragments: tuple[str, ...]) -> None:
    done = tokenize(*flags, stdin=stdin)
    assert done.code == 2
    for fragment in fragments:
        assert fragment in done.error_line
    assert done.out == ""


def test_bad_tokenizer() -> None:
    done = run_dllama("tokenize", "--tokenizer", "absent.t")
    assert done.code == 1
    assert "absent.t" in done.error_line
    assert "--tokenizer" in run_dllama("tokenize").error_line


def test_a_tokenizer_of_any_kind() -> None:
    """A file of a directory is as good as the directory."""
    by_file = run_well("tokenize", "--tokenizer", DEMO_MODEL / "tokenizer.json", stdin=TEXT)
    assert by_file.out == tokenize(stdin=TEXT).out
