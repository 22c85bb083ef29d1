"""A real model, by the real program: SmolLM2-135M-Instruct answers a question."""

from __future__ import annotations

import pytest

from support.processes import WorkerPool, run_well
from support.real_models import SMOLLM2, needs_smollm2

pytestmark = [needs_smollm2, pytest.mark.slow]

CHAT = ("chat", "--model", SMOLLM2, "--weights-float-type", "f16", "--max-seq-len", 256, "--temperature", 0)


def test_it_knows_a_capital() -> None:
    assert run_well(*CHAT, stdin="What is the capital of France?").out == "The capital of France is Paris.\n"


def test_three_nodes_say_the_same(pool: WorkerPool) -> None:
    done = run_well(*CHAT, "--workers", *pool.addresses(2), stdin="What is the capital of France?")
    assert done.out == "The capital of France is Paris.\n"
