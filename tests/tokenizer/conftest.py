"""Small tokenizers of every kind, trained here, and texts that are hard on tokenizers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

NASTY_TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\t\n \r\n\n\n",
    " " * 300,
    "a" + " " * 17 + "b" + "\t" * 9 + "c",
    "Hello world",
    " leading, and trailing ",
    "0 1 12 123 1234 12345 3.14159 1,000,000 2024-12-31 ١٢٣ ①②③ ½",
    "def f(x):\n    if x != 0:\n\treturn x**2  # ok\r\n\n\n",
    "It's I'LL we'Ve THEY'RE 'tis don'T",
    "你好，世界！ こんにちは 안녕하세요",
    "مرحبا بالعالم שלום",
    "naïve café Ünïcödé Привет ελληνικά ſtraße İstanbul",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪 😀",
    "e\u0301 a\u0308\u0323 \u0301 \u0301\u0302",
    "\u200b\u200d\ufeff\u00a0\u3000\u2028\x85\x0b\x0c",
    "\x00\x01\x1c\x7f",
    "\U0010ffff\ue000\ufffd",
    "<|im_end|><|im_start|>system\n</s><s>[INST]<|eot_id|><|begin_of_text|><unk><0x0A>",
    "<think>why</think> <|fim_prefix|> <｜User｜>",
]

SPECIALS_LLAMA_3 = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
SPECIALS_QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _corpus() -> list[str]:
    sentence = (
        "the quick brown fox jumps over a lazy dog while 1024 bytes 1999 times don't we'll return x == 10"
    )
    words = re.findall(r"\S+", sentence)
    lines = [" ".join(words[start % 17 :: 1 + start % 3]) for start in range(60)]
    return lines * 4 + NASTY_TEXTS[1:-2]


def _write(directory: Path, **files: object) -> None:
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="session")
def qwen_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with Qwen's split, its tail of control and ordinary added tokens, no first token."""
    directory = tmp_path_factory.mktemp("qwen")
    pipeline = tokenizers.Tokenizer(models.BPE())
    pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=560, initial_alphabet=alphabet, show_progress=False)
    pipeline.train_from_iterator(_corpus(), trainer)
    pipeline.add_special_tokens(SPECIALS_QWEN)
    pipeline.add_tokens([tokenizers.AddedToken("<think>", normalized=False)])
    pipeline.save(str(directory / "tokenizer.json"))
    _write(
        directory,
        tokenizer_config={
            "bos_token": None,
            "eos_token": {"content": "<|im_end|>"},
            "add_bos_token": False,
            "chat_template": CHATML,
        },
        generation_config={
            "eos_token_id": [pipeline.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
        },
    )
    return directory


@pytest.fixture(scope="session")
def tiktoken_ranks(qwen_directory: Path, byte_of_character: dict[str, int]) -> list[bytes]:
    """The mergeable tokens of qwen_directory as bytes, with numbers added; a rank is a place in the list."""
    vocabulary = json.loads((qwen_directory / "tokenizer.json").read_bytes())["model"]["vocab"]
    tokens = [
        bytes(byte_of_character[c] for c in piece) for piece in sorted(vocabulary, key=vocabulary.__getitem__)
    ]
    return tokens + [str(number).encode() for number in range(10, 200)]


@pytest.fixture(scope="session")
def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level vocabularies, found by asking the library."""
    to_alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = {}
    for code in range(256):
        pieces = "".join(piece for piece, _ in to_alphabet.pre_tokenize_str(chr(code)))
        for byte, character in zip(chr(code).encode(), pieces, strict=True):
            alphabet[character] = byte
    unused = [character for character in pre_tokenizers.ByteLevel.alphabet() if character not in alphabet]
    rest = [byte for byte in range(256) if byte not in alphabet.values()]
    return alphabet | dict(zip(sorted(unused), rest, strict=True))


@pytest.fixture(scope="session")
def tiktoken_directory(tmp_path_factory: pytest.TempPathFactory, tiktoken_ranks: list[bytes]) -> Path:
    """Only a tokenizer.model of tiktoken's format."""
    directory = tmp_path_factory.mktemp("tiktoken")
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tiktoken_ranks)]
    (directory / "tokenizer.model").write_bytes(b"".join(lines))
    return directory


@pytest.fixture(scope="session")
def sentencepiece_json_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BPE with byte fallback in SentencePiece's writing, as Llama 2's tokenizer.json has it."""
    directory = tmp_path_factory.mktemp("spm")
    pipeline = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    pipeline.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    pipeline.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # Words are cut for training only, so that no piece spans several.
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    names = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=names, limit_alphabet=60, show_progress=False
    )
    pipeline.train_from_iterator(_corpus(), trainer)
    values = json.loads(pipeline.to_str())
    values["pre_tokenizer"] = None
    values["added_tokens"] = values["added_tokens"][:3]
    pipeline = tokenizers.Tokenizer.from_str(json.dumps(values))
    pipeline.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    pipeline.save(str(directory / "tokenizer.json"))
    _write(directory, tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"})
    return directory


@pytest.fixture(scope="session")
def metaspace_directory(tmp_path_factory: pytest.TempPathFactory, sentencepiece_json_directory: Path) -> Path:
    """The same vocabulary with a space before the first word only, as newer tokenizer.json files have it."""
    directory = tmp_path_factory.mktemp("metaspace")
    values = json.loads((sentencepiece_json_directory / "tokenizer.json").read_bytes())
    values["normalizer"] = None
    values["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    (directory / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model that the sentencepiece package trained; skipped where that is not installed."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="the sentencepiece package is not installed")
    directory = tmp_path_factory.mktemp("sentencepiece")
    corpus = directory / "corpus.txt"
    lines = [line for text in _corpus() for line in text.splitlines() if line.strip() and "\0" not in line]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(directory / "tokenizer"),
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return directory / "tokenizer.model"


@pytest.fixture(
    params=["qwen_directory", "tiktoken_directory", "sentencepiece_json_directory", "metaspace_directory"]
)
def any_directory(request: pytest.FixtureRequest) -> Path:
    directory: Path = request.getfixturevalue(request.param)
    return directory


@pytest.fixture(scope="session")
def nasty_texts() -> list[str]:
    return NASTY_TEXTS


@pytest.fixture(scope="session")
def reference() -> Callable[[Path], tokenizers.Tokenizer]:
    """The library itself on a tokenizer.json, told to leave special tokens in text alone."""

    def load(directory: Path) -> tokenizers.Tokenizer:
        pipeline = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        pipeline.encode_special_tokens = True
        return pipeline

    return load
