"""`dllama tokenize`: ids of what comes over standard input, every byte of it, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllama.tokenizer import load_tokenizer
from support.gguf_tokenizers import byte_level, write_vocabulary
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


def test_a_tokenizer_of_any_kind(tmp_path: Path) -> None:
    """A file of a directory is as good as the directory, and so is a GGUF file without tensors."""
    of_directory = tokenize(stdin=TEXT).out
    values = byte_level(DEMO_MODEL / "tokenizer.json", "llama-bpe") | {"bos_token_id": TOKENIZER.bos_id}
    gguf = write_vocabulary(tmp_path / "vocabulary.gguf", **values)
    for path in (DEMO_MODEL / "tokenizer.json", gguf, tmp_path):
        assert run_well("tokenize", "--tokenizer", path, stdin=TEXT).out == of_directory


def test_what_the_model_adds_after_a_text(tmp_path: Path) -> None:
    """It is shown with the ids of a text, and is none of the text on the way back."""
    values = byte_level(DEMO_MODEL / "tokenizer.json", "llama-bpe") | {
        "add_eos_token": True,
        "eos_token_id": EOT,
    }
    gguf = write_vocabulary(tmp_path / "vocabulary.gguf", **values)
    with_end = run_well("tokenize", "--json", "--tokenizer", gguf, stdin="Once")
    without = run_well("tokenize", "--json", "--no-special", "--tokenizer", gguf, stdin="Once")
    assert json.loads(with_end.out) == [*json.loads(without.out), EOT]
    assert run_well("tokenize", "--decode", "--tokenizer", gguf, stdin=with_end.out).out == "Once"


def test_an_unknown_kind_of_gguf_tokenizer(tmp_path: Path) -> None:
    gguf = write_vocabulary(tmp_path / "bert.gguf", model="bert", tokens=["a"])
    done = run_dllama("tokenize", "--tokenizer", gguf)
    assert done.code == 1
    assert "bert.gguf" in done.error_line
    assert "'bert'" in done.error_line
