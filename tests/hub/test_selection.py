"""Which files of a repository are fetched, and what is said where that is not clear."""

from __future__ import annotations

import pytest

from dllama.errors import UsageError
from dllama.hub import HubName, hub_name, select_files

SAFETENSORS = [
    ".gitattributes", "README.md", "LICENSE", "USE_POLICY.md", "config.json", "generation_config.json",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "original/consolidated.00.pth", "original/params.json", "original/tokenizer.model", "onnx/model.onnx",
    "pytorch_model-00001-of-00002.bin", "consolidated.safetensors", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "runs/events.json",
]  # fmt: skip
GGUF = [
    "README.md", "Model-Q4_0.gguf", "Model-Q4_K_M.gguf", "Model-Q4_K_S.gguf", "Model-Q8_0.gguf",
    "mmproj-Model-f16.gguf",
    "UD/Model-UD-Q4_K_XL-00001-of-00002.gguf", "UD/Model-UD-Q4_K_XL-00002-of-00002.gguf", "Model-imatrix.gguf",
]  # fmt: skip
PARTS = ["UD/Model-UD-Q4_K_XL-00001-of-00002.gguf", "UD/Model-UD-Q4_K_XL-00002-of-00002.gguf"]


def test_safetensors_come_once_with_their_settings_and_the_weights_last() -> None:
    selection = select_files(SAFETENSORS, None, "a/b")
    assert selection.main == ""
    assert selection.files[-3:] == (
        "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    )  # fmt: skip
    assert set(selection.files[:-3]) == {
        "LICENSE", "config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "files"),
    [
        (None, ["Model-Q4_K_M.gguf"]),
        ("q8_0", ["Model-Q8_0.gguf"]),
        ("Q4_K_S", ["Model-Q4_K_S.gguf"]),
        ("Model-Q4_0.gguf", ["Model-Q4_0.gguf"]),
        ("UD-Q4_K_XL", PARTS),
        ("Q4_K_XL", PARTS),
        (PARTS[1], PARTS),
    ],
)
def test_one_of_several_gguf_files(choice: str | None, files: list[str]) -> None:
    selection = select_files(GGUF, choice, "a/b")
    assert [*selection.files] == files
    assert selection.main == files[0]


def test_a_plain_name_comes_before_longer_ones() -> None:
    names = ["M-Q4_K_M.gguf", "M-Q4_K_M-fixed.gguf"]
    assert select_files(names, "Q4_K_M", "a/b").files == ("M-Q4_K_M.gguf",)


@pytest.mark.parametrize(
    ("names", "choice", "message"),
    [
        (GGUF, "Q3_K", r"a/b: has no Q3_K; it has Model-Q4_0, .*Model-Q8_0"),
        (["x-Q4_0.gguf", "y-Q4_0.gguf"], "Q4_0", "a/b:Q4_0 may be several models; say which: x-Q4_0, y-Q4_0"),
        (
            ["x-Q4_0.gguf", "y-Q8_0.gguf"],
            None,
            "holds several models; add one of them, as a/b:x-Q4_0, y-Q8_0",
        ),
        (SAFETENSORS, "Q4_0", "a/b: has no file Q4_0; it has "),
        (["pytorch_model.bin", "config.json"], None, "holds no model that can be read .*pytorch_model.bin"),
        ([], None, "holds no model that can be read .*but nothing"),
        (["mmproj-f16.gguf"], None, "holds no model that can be read"),
    ],
)
def test_what_is_not_clear(names: list[str], choice: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select_files(names, choice, "a/b")


def test_files_of_distributed_llama() -> None:
    whole = select_files(["README.md", "dllama_model_x_q40.m", "dllama_tokenizer_x.t"], None, "a/b")
    assert (whole.files, whole.main) == (
        ("dllama_tokenizer_x.t", "dllama_model_x_q40.m"),
        "dllama_model_x_q40.m",
    )
    names = ["dllama_model_x_q40_aa", "dllama_model_x_q40_ab", "dllama_tokenizer_x.t"]
    parts = select_files(names, None, "a/b")
    assert parts.files == ("dllama_tokenizer_x.t", "dllama_model_x_q40_aa", "dllama_model_x_q40_ab")
    assert (parts.joined, parts.main, parts.n_parts) == ("dllama_model_x_q40.m", "dllama_model_x_q40.m", 2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen/Qwen3-8B", HubName("Qwen/Qwen3-8B")),
        ("Qwen/Qwen3-8B-GGUF:Q4_K_M", HubName("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("a/b:UD/x-00001-of-00002.gguf", HubName("a/b", "UD/x-00001-of-00002.gguf")),
        ("https://huggingface.co/Qwen/Qwen3-8B", HubName("Qwen/Qwen3-8B")),
        ("hf.co/a/b:Q8_0", HubName("a/b", "Q8_0")),
        ("https://huggingface.co/a/b/tree/main?x=1", HubName("a/b")),
        ("https://huggingface.co/a/b/blob/main/UD/x.gguf", HubName("a/b", "UD/x.gguf")),
        ("https:/huggingface.co/a/b/resolve/main/x.gguf?download=true", HubName("a/b", "x.gguf")),
        ("Qwen3-8B", HubName("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("qwen3_8b_q40", HubName("b4rtaz/Qwen3-8B-Q40-Distributed-Llama")),
        ("no-such-name", None),
        ("../b", None),
        ("/tmp/x", None),
        ("a/b/c", None),
        ("", None),
    ],
)
def test_names(text: str, name: HubName | None) -> None:
    assert hub_name(text) == name
