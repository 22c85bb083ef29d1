"""Bytes on the wire of the Llama 3 8B shape, counted on fabrics: one all-reduce of it for 2 L, and its STEP message."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dllama.dtypes import ElementType
from dllama.fabric import Fabric, local_fabrics
from dllama.fabric.frames import HEADER_BYTES
from dllama.kernels import Cpu
from dllama.model import LogitRows, ReducePlan, StepBatch
from dllama.model.partial_sums import PartialSums
from dllama.model.trace import Trace
from dllama.node.input_rows import encode_inputs
from dllama.node.step_message import encode_steps
from dllama.sharding import Span

DIM, N_LAYERS, VOCAB = 4096, 32, 128256
Q = DIM // 32 * 34
DIRECT, SCATTERED = ReducePlan(), ReducePlan(scatter_bytes=0)


def partial_sum_bytes(n_ranks: int, n_rows: int, plan: ReducePlan) -> list[int]:
    """What each rank sends for all partial sums of a step."""
    fabrics = local_fabrics(n_ranks)

    def one(fabric: Fabric) -> None:
        device = Cpu(1)
        x, partial = device.buffer(n_rows, DIM), device.buffer(n_rows, DIM)
        sums = PartialSums(device, fabric, x, partial, ElementType.Q80, plan, 20.0, Trace())
        (run,) = sums.runs(n_rows)
        run.encode()
        run.send()
        run.wait()
        run.add()

    with ThreadPoolExecutor(n_ranks) as pool:
        list(pool.map(one, fabrics))
    return [2 * N_LAYERS * sum(fabric.sent_bytes) for fabric in fabrics]


def step_bytes(n_rows: int, n_pages: int) -> int:
    """One STEP of one text, whose embedding was bf16."""
    batch = StepBatch(
        token_ids=np.zeros(n_rows, np.int32),
        positions=np.arange(n_rows, dtype=np.int32),
        sequence=np.zeros(n_rows, np.int32),
        page_tables=(np.zeros((1, n_pages), np.int32),),
        wanted=LogitRows.greedy(np.asarray([n_rows - 1], np.int32)),
    )
    inputs = encode_inputs(np.ones((n_rows, DIM), np.float32))
    (payload,) = encode_steps(batch, inputs, [Span(0, VOCAB)])
    return HEADER_BYTES + memoryview(payload).nbytes + (inputs.stored.nbytes if inputs.travel_apart else 0)


@pytest.mark.parametrize(
    ("n_ranks", "plan", "limit"), [(2, DIRECT, 295e3), (4, SCATTERED, 450e3), (8, SCATTERED, 550e3)]
)
def test_what_the_root_sends_for_a_token(n_ranks: int, plan: ReducePlan, limit: float) -> None:
    sums = partial_sum_bytes(n_ranks, 1, plan)
    formula = 2 * N_LAYERS * Q * ((n_ranks - 1) if plan is DIRECT else 2 * (n_ranks - 1) / n_ranks)
    assert max(sums) <= 1.01 * formula
    n_pages = 4096 // 64  # a text of 4096 tokens
    assert sums[0] + (n_ranks - 1) * step_bytes(1, n_pages) <= limit


@pytest.mark.parametrize(("n_ranks", "limit"), [(4, 0.47), (8, 0.26)])
def test_what_all_send_for_a_prompt(n_ranks: int, limit: float) -> None:
    """Beside Distributed Llama, where the root sends (n - 1) (8 + 4 D + 2 L q) for each token, and each worker
    (n - 1) 2 L q + 4 V / n."""
    n_rows = 512
    others = n_ranks - 1
    theirs = others * (8 + 4 * DIM + 2 * N_LAYERS * Q) + others * (
        others * 2 * N_LAYERS * Q + 4 * VOCAB // n_ranks
    )
    candidates = others * 52
    ours = sum(partial_sum_bytes(n_ranks, n_rows, SCATTERED))
    ours += others * step_bytes(n_rows, n_rows // 64) + candidates
    assert ours <= limit * n_rows * theirs
