"""The published tokenizers of Llama 2 and 3, against the packages that they were made with."""

from __future__ import annotations

import base64
import functools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.formats.t_file import write_t_file
from dllama.tokenizer import Tokenizer, load_tokenizer
from dllama.tokenizer.convert import convert_tokenizer
from dllama.tokenizer.split_rules import LLAMA_3 as LLAMA_3_RULE

pytestmark = pytest.mark.slow  # vocabularies of 32 000 and 128 000 tokens, read in several ways

REAL = Path(__file__).parents[3] / "shared" / "real"
LLAMA_2, LLAMA_3 = REAL / "llama2-tokenizer.model", REAL / "llama3-tokenizer.model"

Encode = Callable[[str], list[int]]

WORDS = [
    "the",
    "Hello",
    " ",
    "    ",
    "\n",
    "\r\n",
    "\t",
    "123",
    "4567",
    "'LL",
    "don't",
    "ſ",
    "é",
    "你好",
    "👩‍👧",
    "</s>",
]
any_text = st.text(max_size=50) | st.lists(st.sampled_from(WORDS), max_size=40).map("".join)


def _require(path: Path, package: str) -> object:
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the repository")
    return pytest.importorskip(package, reason=f"the {package} package is not installed")


@pytest.fixture(scope="module")
def llama_2(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[Tokenizer], Encode, Callable[[list[int]], str]]:
    """Both tokenizers (the file's own, and by way of a `.t` file), and what sentencepiece says."""
    sentencepiece: object = _require(LLAMA_2, "sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA_2))  # type: ignore[attr-defined]
    return _both(LLAMA_2, tmp_path_factory.mktemp("llama2")), processor.encode, processor.decode


@pytest.fixture(scope="module")
def llama_3(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Tokenizer], Encode]:
    """Both tokenizers (the file's own, and by way of a `.t` file), and what tiktoken says."""
    tiktoken: object = _require(LLAMA_3, "tiktoken")
    lines = (line.split() for line in LLAMA_3.read_bytes().splitlines())
    encoding = tiktoken.Encoding(  # type: ignore[attr-defined]
        "llama3",
        pat_str=LLAMA_3_RULE.patterns[0],
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
        special_tokens={},
    )
    encode = functools.partial(encoding.encode, disallowed_special=())
    return _both(LLAMA_3, tmp_path_factory.mktemp("llama3")), encode


def _both(source: Path, directory: Path) -> list[Tokenizer]:
    write_t_file(directory / "tokenizer.t", convert_tokenizer(source))
    return [load_tokenizer(source), load_tokenizer(directory / "tokenizer.t")]


@settings(max_examples=200)
@given(text=any_text)
def test_llama_2_random_text(
    text: str, llama_2: tuple[list[Tokenizer], Encode, Callable[[list[int]], str]]
) -> None:
    tokenizers, encode, decode = llama_2
    ids = encode(text)
    for tokenizer in tokenizers:
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == decode(ids) == text.replace("▁", " ")


@settings(max_examples=200)
@given(text=any_text)
def test_llama_3_random_text(text: str, llama_3: tuple[list[Tokenizer], Encode]) -> None:
    tokenizers, encode = llama_3
    ids = encode(text)
    for tokenizer in tokenizers:
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text


def test_nasty_texts(
    nasty_texts: list[str],
    llama_2: tuple[list[Tokenizer], Encode, Callable[[list[int]], str]],
    llama_3: tuple[list[Tokenizer], Encode],
) -> None:
    for tokenizers, encode, *_ in (llama_2, llama_3):
        for text in nasty_texts:
            for tokenizer in tokenizers:
                assert tokenizer.encode(text) == encode(text), repr(text)


def test_special_tokens_of_llama_3(llama_3: tuple[list[Tokenizer], Encode]) -> None:
    for tokenizer in llama_3[0]:
        assert tokenizer.vocab_size == 128256
        assert tokenizer.special_tokens["<|begin_of_text|>"] == tokenizer.bos_id == 128000
        assert tokenizer.special_tokens["<|start_header_id|>"] == 128006
        assert set(tokenizer.eos_ids) == {128001, 128008, 128009}


def test_llama_3_loads_in_seconds() -> None:
    """About 1 s of processor time on a desktop; the limit is loose for slow and busy machines."""
    if not LLAMA_3.is_file():
        pytest.skip(f"{LLAMA_3.name} is not beside the repository")
    start = time.process_time()
    load_tokenizer(LLAMA_3)
    assert time.process_time() - start < 6
