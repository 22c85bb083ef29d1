"""What stands beside a vocabulary is found; damage is one clear line that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dllama.errors import TokenizerError
from dllama.formats.t_file import TFile, encode_t_file
from dllama.tokenizer import check_vocab, load_tokenizer


@pytest.fixture
def qwen(qwen_directory: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(qwen_directory, tmp_path / "model"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values), encoding="utf-8")


def test_settings_of_a_hugging_face_directory(qwen_directory: Path) -> None:
    tokenizer = load_tokenizer(qwen_directory)
    special = tokenizer.special_tokens
    assert tokenizer.bos_id is None
    assert not tokenizer.add_bos
    assert tokenizer.eos_ids == (special["<|im_end|>"], special["<|endoftext|>"])
    assert tokenizer.chat_template is not None
    assert tokenizer.vocab_size == 564


def test_the_post_processor_tells_the_first_token(sentencepiece_json_directory: Path, tmp_path: Path) -> None:
    shutil.copy(sentencepiece_json_directory / "tokenizer.json", tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.bos_id == 1
    assert tokenizer.add_bos
    assert tokenizer.eos_ids == ()


def test_add_bos_token_overrules_the_post_processor(
    sentencepiece_json_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(sentencepiece_json_directory, tmp_path, dirs_exist_ok=True)
    change(tmp_path / "tokenizer_config.json", add_bos_token=False)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.bos_id == 1
    assert not tokenizer.add_bos


def test_one_eos_id_as_a_number_and_from_config_json(qwen: Path) -> None:
    change(qwen / "generation_config.json", eos_token_id=560)
    assert load_tokenizer(qwen).eos_ids == (562, 560)
    (qwen / "generation_config.json").unlink()
    (qwen / "config.json").write_text('{"eos_token_id": [560]}')
    assert load_tokenizer(qwen).eos_ids == (562, 560)


def test_where_the_chat_template_is(qwen: Path) -> None:
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    change(qwen / "tokenizer_config.json", chat_template=templates)
    assert load_tokenizer(qwen).chat_template == "plain"
    change(qwen / "tokenizer_config.json", chat_template=None)
    (qwen / "chat_template.json").write_text('{"chat_template": "of a processor"}')
    assert load_tokenizer(qwen).chat_template == "of a processor"
    (qwen / "chat_template.jinja").write_text("from the file é", encoding="utf-8")
    assert load_tokenizer(qwen).chat_template == "from the file é"


def test_first_and_end_tokens_are_special_though_not_flagged(qwen: Path) -> None:
    change(qwen / "tokenizer_config.json", eos_token="<think>")
    tokenizer = load_tokenizer(qwen)
    assert tokenizer.is_special(563)
    assert 563 not in tokenizer.encode("<think>")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "no sound tokenizer.json"),
        ("tokenizer.json", "{}", "no sound tokenizer.json"),
        ("tokenizer.json", "", "no sound tokenizer.json.*download it again"),
        ("tokenizer.json", "\nnot found", "no sound tokenizer.json"),
        ("tokenizer.json", '{"version": "\\u001b[2J\\n"}', r"version '\\x1b\[2J\\n'"),
        ("tokenizer.json", '{"added_tokens": "' + "a" * 9000 + '"}', "no sound tokenizer.json"),
        ("tokenizer_config.json", '{"eos_token": "' + "a" * 9000 + '"}', "eos_token 'aaa"),
        ("tokenizer_config.json", "{", "tokenizer_config.json"),
        ("tokenizer_config.json", "[]", "not a JSON object"),
        ("tokenizer_config.json", '{"eos_token": "<gone>"}', "eos_token '<gone>' is not in the vocabulary"),
        ("generation_config.json", '{"eos_token_id": 564}', "eos_token_id 564 is not in the vocabulary"),
        ("generation_config.json", '{"eos_token_id": -1}', "eos_token_id -1 is not in the vocabulary"),
        ("generation_config.json", '{"eos_token_id": 1' + "0" * 30 + "}", "eos_token_id 10000"),
        (
            "generation_config.json",
            '{"eos_token_id": [562, "563"]}',
            "eos_token_id has '563', which is no id",
        ),
        ("chat_template.jinja", b"\xff", "chat_template.jinja"),
    ],
)
def test_damage_in_a_directory(qwen: Path, file: str, content: str | bytes, message: str) -> None:
    (qwen / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(qwen)
    assert str(qwen) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 800


def test_a_file_that_makes_the_library_panic(qwen: Path) -> None:
    """Which is no Exception."""
    processor = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    change(qwen / "tokenizer.json", post_processor=processor | {"single": single})
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: it is no sound tokenizer\.json"):
        load_tokenizer(qwen)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="there is no such file"):
        load_tokenizer(tmp_path / "tokenizer.t")


def test_a_pipeline_of_an_unknown_kind(qwen: Path) -> None:
    change(qwen / "tokenizer.json", decoder={"type": "WordPiece", "prefix": "##", "cleanup": False})
    with pytest.raises(TokenizerError, match="neither byte-level nor SentencePiece"):
        load_tokenizer(qwen)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b" 7\n", b" x\n", "line 8 is not"),
        (b" 7\n", b" 9\n", "line 8 has the rank 9, not 7"),
        (b"IQ== 0\n", b"IQ== 0\n!!! 1\n", "line 2 is not"),
    ],
)
def test_damaged_ranks(
    tiktoken_directory: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    content = (tiktoken_directory / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(content.replace(old, new, 1))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_ranks_cut_short(tiktoken_directory: Path, tmp_path: Path) -> None:
    lines = (tiktoken_directory / "tokenizer.model").read_bytes().splitlines(keepends=True)
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines[:200]))
    with pytest.raises(TokenizerError, match="56 of the 256 bytes have no token"):
        load_tokenizer(tmp_path)


def test_a_damaged_sentencepiece_model_is_an_error_or_another_model(
    sentencepiece_model: Path, tmp_path: Path
) -> None:
    content = sentencepiece_model.read_bytes()
    for end in range(0, len(content), 97):
        (tmp_path / "tokenizer.model").write_bytes(content[:end])
        with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
            load_tokenizer(tmp_path)


def test_sentencepiece_models_of_other_types(tmp_path: Path, sentencepiece_model: Path) -> None:
    content = sentencepiece_model.read_bytes()
    bpe_in_trainer_spec = bytes([3 << 3, 2])
    for place in range(len(content)):
        if content.startswith(bpe_in_trainer_spec, place):
            unigram = content[:place] + bytes([3 << 3, 1]) + content[place + 2 :]
            (tmp_path / "tokenizer.model").write_bytes(unigram)
            try:
                load_tokenizer(tmp_path)
            except TokenizerError as error:
                if "type unigram" in str(error):
                    return
    pytest.fail("no byte of the model is its type")


def t_file(tokens: list[bytes]) -> TFile:
    return TFile(
        tokens=tokens,
        scores=[0.0] * len(tokens),
        bos_id=0,
        add_bos=True,
        eos_ids=(0,),
        chat_template=None,
    )


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([b"a", b"b"], "254 of the 256 bytes have no token"),
        ([bytes([byte]) for byte in range(256) if byte != ord("e")], "1 of the 256 bytes have no token"),
        ([b"<s>", b"<0x00>", b"a"], "lacks the byte token <0x01>"),
    ],
)
def test_a_t_vocabulary_that_cannot_write_every_byte(
    tmp_path: Path, tokens: list[bytes], message: str
) -> None:
    (tmp_path / "x.t").write_bytes(encode_t_file(t_file(tokens)))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / "x.t")


def test_check_vocab(qwen_directory: Path) -> None:
    tokenizer = load_tokenizer(qwen_directory)
    for vocab_size in (563, 564, 576, 1128):
        check_vocab(tokenizer, vocab_size)
    for vocab_size in (500, 1130):
        with pytest.raises(TokenizerError, match="564 tokens"):
            check_vocab(tokenizer, vocab_size)
