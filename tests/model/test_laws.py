"""Laws of the forward pass: how work is cut into steps, rows, pages, threads and ranks changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.model import ReducePlan
from dllama.node import input_rows
from support.local_cluster import GOLDENS, LocalCluster
from support.sequences import CachedSequence, Run, Steps, Want

FAMILIES = ("llama-gqa", "mistral-window", "qwen2-gqa-tied", "qwen3-shards", "qwen3-moe")
PROMPT = [5, 9, 200, 31, 77, 4, 150, 63, 12, 99, 181, 7, 8, 45, 230, 16, 3, 120, 55, 88, 9, 10, 11]


def all_logits(engine: Steps, ids: Sequence[int], chunks: Sequence[int]) -> NDArray[np.float32]:
    """Logits [len(ids), V] of a new sequence, appended in pieces of these sizes, the last one repeated."""
    sequence, parts, first = CachedSequence(), [], 0
    for number in range(len(ids)):
        size = chunks[min(number, len(chunks) - 1)]
        if first < len(ids):
            engine.step([Run(sequence, ids[first : first + size], Want.ALL)])
            parts.append(engine.whole_logits())
        first += size
    engine.truncate(sequence, 0)
    return np.concatenate(parts)


def assert_same_bits(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    difference = np.abs(got - wanted)
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    assert np.array_equal(got, wanted), f"at {worst}: {got[worst]} in place of {wanted[worst]}"


@pytest.mark.parametrize(
    "weight_type", [ElementType.F32, ElementType.Q40, ElementType.Q80, ElementType.F16], ids=str
)
@pytest.mark.parametrize("name", FAMILIES)
def test_chunked_prefill_equals_whole(name: str, weight_type: ElementType) -> None:
    with LocalCluster(GOLDENS / name, weight_type=weight_type) as cluster:
        engine = Steps(cluster)
        whole = all_logits(engine, PROMPT, [len(PROMPT)])
        for chunks in ([1], [7, 1], [16, 3], [5]):
            assert_same_bits(all_logits(engine, PROMPT, chunks), whole)


@pytest.mark.parametrize("wire", [ElementType.F32, ElementType.Q80], ids=str)
@pytest.mark.parametrize("shares", [(1,), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ["llama-gqa", "qwen3-moe"])
def test_a_ragged_batch_equals_its_sequences_alone(
    name: str, shares: Sequence[float], wire: ElementType
) -> None:
    with LocalCluster(GOLDENS / name, shares=shares, weight_type=ElementType.Q40, wire=wire) as cluster:
        engine = Steps(cluster)
        texts = [PROMPT, PROMPT[3:9], PROMPT[::-1], [42]]
        alone = [all_logits(engine, text, [len(text)]) for text in texts]
        sequences = [CachedSequence() for _ in texts]
        # Two texts first, then all four at once: prefill rows and decode rows in one batch, pages interleaved.
        for index in (1, 2):
            engine.step([Run(sequences[index], texts[index][:-1])])
        rest = [text[len(sequence.token_ids) :] for text, sequence in zip(texts, sequences, strict=True)]
        engine.step([Run(s, ids) for s, ids in zip(sequences, rest, strict=True)])
        for row, logits in zip(engine.whole_logits(), alone, strict=True):
            assert_same_bits(row, logits[-1])


REDUCE_PLANS = {
    "direct": ReducePlan(),
    "scattered": ReducePlan(scatter_bytes=0),
    # As between three nodes and more: the way depends on the size, and large steps are computed in halves.
    "auto": ReducePlan(scatter_bytes=1000, rounds=True, overlap_bytes=2000),
}


@pytest.mark.parametrize("wire", [ElementType.F32, ElementType.Q80], ids=str)
@pytest.mark.parametrize("plan", REDUCE_PLANS.values(), ids=REDUCE_PLANS)
@pytest.mark.parametrize(
    ("name", "shares"), [("llama-gqa", (1, 1, 1)), ("mistral-window", (1, 1)), ("qwen3-moe", (1, 1))]
)
def test_chunked_prefill_equals_whole_however_sums_are_added_up(
    name: str, shares: Sequence[float], plan: ReducePlan, wire: ElementType
) -> None:
    ids = PROMPT * 3
    with LocalCluster(
        GOLDENS / name,
        shares=shares,
        weight_type=ElementType.Q40,
        wire=wire,
        reduce_plan=plan,
        max_rows=80,
    ) as cluster:
        engine = Steps(cluster)
        whole = all_logits(engine, ids, [len(ids)])
        for chunks in ([1], [7, 1], [40, 3], [5]):
            assert_same_bits(all_logits(engine, ids, chunks), whole)


def test_scattered_sums_are_the_rounded_direct_ones() -> None:
    results = []
    for plan in (ReducePlan(rounds=True), ReducePlan(scatter_bytes=0), REDUCE_PLANS["auto"]):
        with LocalCluster(
            GOLDENS / "llama-gqa",
            shares=(2, 1, 1),
            weight_type=ElementType.Q40,
            wire=ElementType.Q80,
            reduce_plan=plan,
        ) as cluster:
            results.append(all_logits(Steps(cluster), PROMPT * 2, [2 * len(PROMPT)]))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("plan", REDUCE_PLANS.values(), ids=REDUCE_PLANS)
def test_inputs_that_come_by_themselves_are_the_same(
    plan: ReducePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for apart_bytes in (1 << 30, 1):
        monkeypatch.setattr(input_rows, "APART_BYTES", apart_bytes)
        with LocalCluster(GOLDENS / "llama-gqa", shares=(2, 1, 1), reduce_plan=plan, max_rows=80) as cluster:
            results.append(all_logits(Steps(cluster), PROMPT * 3, [2 * len(PROMPT), 1]))
    assert_same_bits(results[1], results[0])


def test_reused_pages_leave_no_trace() -> None:
    with LocalCluster(GOLDENS / "llama-gqa", n_pages=6) as cluster:
        engine = Steps(cluster)
        fresh = all_logits(engine, PROMPT, [len(PROMPT)])
        all_logits(engine, PROMPT[::-1] * 3, [len(PROMPT)])
        holder = CachedSequence()
        engine.step([Run(holder, PROMPT[:17])])  # takes the first pages
        assert_same_bits(all_logits(engine, PROMPT, [len(PROMPT)]), fresh)


def test_truncated_sequence_goes_on_as_if_it_had_ended_there() -> None:
    with LocalCluster(GOLDENS / "qwen3-shards") as cluster:
        engine = Steps(cluster)
        sequence = CachedSequence()
        engine.step([Run(sequence, [*PROMPT, 1, 2, 3, 4])])
        engine.truncate(sequence, 11)
        engine.step([Run(sequence, PROMPT[11:], Want.ALL)])
        continued = engine.whole_logits()
        assert_same_bits(continued, all_logits(engine, PROMPT, [len(PROMPT)])[11:])


@pytest.mark.parametrize("weight_type", [ElementType.F32, ElementType.Q40], ids=str)
def test_threads_change_nothing(weight_type: ElementType) -> None:
    results = []
    for n_threads in (1, 2, 3):
        with LocalCluster(GOLDENS / "llama-gqa", weight_type=weight_type, n_threads=n_threads) as cluster:
            results.append(all_logits(Steps(cluster), PROMPT, [len(PROMPT)]))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


WIRE_CASES = [
    (weight_type, shares)
    for shares in ((1, 1), (1, 1, 1), (3, 1), (1,) * 5, (1,) * 8, (3, 1, 1))
    for weight_type in (ElementType.F32, ElementType.F16, ElementType.Q80, ElementType.Q40)
    if len(shares) <= 4 or not weight_type.is_blocked  # 8 heads of width 16: 4 units of whole blocks
]


@pytest.mark.parametrize(("weight_type", "shares"), WIRE_CASES, ids=str)
def test_quantised_wire_stays_within_its_bound(weight_type: ElementType, shares: Sequence[float]) -> None:
    """Each of the 2 L sums adds n parts whose blocks are off by at most half a step, largest magnitude / 127 / 2,
    at random: sqrt(n) steps for each sum cover it and what the layers after it make of it, since norms keep
    relative errors from growing. With Q40 and Q80 weights the changed activations are rounded again, one more
    step for each of the four inputs of a layer's products."""
    name = "llama-gqa"
    with LocalCluster(GOLDENS / name, weight_type=weight_type) as cluster:
        exact = all_logits(Steps(cluster), PROMPT, [len(PROMPT)])
        n_sums = 2 * cluster.config.n_layers
    with LocalCluster(
        GOLDENS / name,
        weight_type=weight_type,
        shares=shares,
        wire=ElementType.Q80,
        cache_type=ElementType.F32,
    ) as cluster:
        quantised = all_logits(Steps(cluster), PROMPT, [len(PROMPT)])
    bound = n_sums * (len(shares) ** 0.5 + (2 if weight_type.is_blocked else 0)) / 127
    relative = np.linalg.norm(quantised - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert relative.max() <= bound, (int(np.argmax(relative)), relative.max(), bound)


@pytest.mark.parametrize("wire", [ElementType.F32, ElementType.Q80], ids=str)
@pytest.mark.parametrize("weight_type", [ElementType.F32, ElementType.F16], ids=str)
@pytest.mark.parametrize("name", ["llama-odd", "qwen2-odd"])
def test_dimensions_that_are_no_whole_blocks(name: str, weight_type: ElementType, wire: ElementType) -> None:
    with LocalCluster(GOLDENS / name, weight_type=weight_type) as cluster:
        exact = all_logits(Steps(cluster), PROMPT, [len(PROMPT)])
    with LocalCluster(GOLDENS / name, weight_type=weight_type, shares=(1, 1, 1), wire=wire) as cluster:
        split = all_logits(Steps(cluster), PROMPT, [len(PROMPT)])
        n_sums = 2 * cluster.config.n_layers
    bound = n_sums * 3**0.5 / 127 if wire is ElementType.Q80 else 1e-4
    relative = np.linalg.norm(split - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert relative.max() <= bound
