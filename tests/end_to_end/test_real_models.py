"""A real model, by the real program: SmolLM2-135M-Instruct answers a question."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.api_process import CHAT as CHAT_PATH
from support.api_process import ApiProcess
from support.processes import WorkerPool, run_well
from support.real_models import (
    GEMMA3_GGUF,
    SMOLLM2,
    SMOLLM2_GGUF,
    needs_gemma3_gguf,
    needs_smollm2,
    needs_smollm2_gguf,
)

pytestmark = [needs_smollm2, needs_smollm2_gguf, pytest.mark.slow]

PROSE = Path(__file__).parents[2] / "tools" / "quality" / "prose.txt"
CHAT = ("chat", "--model", SMOLLM2, "--weights-float-type", "f16", "--max-seq-len", 256, "--temperature", 0)


def test_it_knows_a_capital() -> None:
    assert run_well(*CHAT, stdin="What is the capital of France?").out == "The capital of France is Paris.\n"


def test_three_nodes_say_the_same(pool: WorkerPool) -> None:
    done = run_well(*CHAT, "--workers", *pool.addresses(2), stdin="What is the capital of France?")
    assert done.out == "The capital of France is Paris.\n"


def test_the_converted_model_says_the_same(tmp_path: Path) -> None:
    """Also its tokenizer, in which 21 bytes have no token."""
    run_well("convert", "hf", SMOLLM2, "f16", "smol", "--output-dir", tmp_path, "--compatible")
    done = run_well("convert", "tokenizer", SMOLLM2, "smol", "--output-dir", tmp_path)
    assert "21 of the 256 bytes have no token" in done.err
    model, tokenizer = tmp_path / "dllama_model_smol_f16.m", tmp_path / "dllama_tokenizer_smol.t"
    chat = ("chat", "--model", model, "--tokenizer", tokenizer, "--max-seq-len", 256, "--temperature", 0)
    assert run_well(*chat, stdin="What is the capital of France?").out == "The capital of France is Paris.\n"


@needs_smollm2_gguf
def test_a_gguf_file_brings_its_tokenizer_and_template(pool: WorkerPool) -> None:
    """To a chat on three nodes, and to the API: the answer ends where the model ends it."""
    model = ("--model", SMOLLM2_GGUF, "--weights-float-type", "f16", "--max-seq-len", 256)
    workers = ("--workers", *pool.addresses(2))
    done = run_well("chat", *model, "--temperature", 0, *workers, stdin="What is the capital of France?")
    assert done.out == "The capital of France is Paris.\n"
    with ApiProcess(*model) as api:
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
        choice = api.post(CHAT_PATH, body).json()["choices"][0]
    assert choice["message"]["content"] == "The capital of France is Paris."
    assert choice["finish_reason"] == "stop"


def test_a_gguf_file_brings_all_that_it_needs(pool: WorkerPool) -> None:
    """Tokenizer and chat template too; in float32, where the answer is not on the edge."""
    chat = ("chat", "--model", SMOLLM2_GGUF, "--max-seq-len", 256, "--temperature", 0)
    exact = (*chat, "--weights-float-type", "f32", "--buffer-float-type", "f32")
    for workers in ((), ("--workers", *pool.addresses(2))):
        done = run_well(*exact, *workers, stdin="What is the capital of France?")
        assert done.out == "The capital of France is Paris.\n"


def test_a_gguf_file_runs_in_its_own_types_on_any_number_of_nodes(pool: WorkerPool) -> None:
    prompt = ("--prompt", "The capital of France is", "--steps", 7, "--temperature", 0)
    for workers in ((), ("--workers", *pool.addresses(2))):
        done = run_well("inference", "--model", SMOLLM2_GGUF, *prompt, *workers)
        assert "|  Paris\n" in done.out


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "model",
    [SMOLLM2_GGUF, pytest.param(GEMMA3_GGUF, marks=needs_gemma3_gguf)],
    ids=["smollm2", "gemma3"],
)
def test_types_of_a_gguf_file_lose_little_beside_float32(model: Path, tmp_path: Path) -> None:
    """On prose, against float32 arithmetic on the same dequantised weights; docs/quality.md has longer texts."""
    text = tmp_path / "prose.txt"
    text.write_text(PROSE.read_text()[:2500])
    reference = ("--reference", model, "--reference-float-type", "f32")
    done = run_well("perplexity", "--model", model, *reference, "--file", text, timeout_s=300)
    found = dict(line.split(": ") for line in done.out.splitlines() if ": " in line)
    assert float(found["mean KL divergence"]) <= 0.006
    assert float(found["same first token"].rstrip(" %")) >= 95
