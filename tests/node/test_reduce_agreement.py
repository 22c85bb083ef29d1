"""All ranks use what the root has decided."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from dllama.errors import PeerError, PeerProtocolError
from dllama.fabric import local_fabrics, measure_exchange, send_frame
from dllama.model import Algorithm, ReducePlan
from dllama.node.messages import Kind, Refusal
from dllama.node.reduce_agreement import choose_reduce, learn_reduce

TIMEOUT_S = 20.0


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("n_ranks", [1, 2, 5])
def test_everyone_has_the_roots_plan(n_ranks: int, algorithm: Algorithm) -> None:
    root, *workers = local_fabrics(n_ranks)
    with ThreadPoolExecutor(n_ranks) as pool:
        learned = [pool.submit(learn_reduce, fabric, TIMEOUT_S) for fabric in workers]
        plan = choose_reduce(root, algorithm, TIMEOUT_S)
        assert [future.result() for future in learned] == [plan] * (n_ranks - 1)
    if algorithm is Algorithm.SCATTERED and n_ranks > 1:
        assert plan.scatter_bytes == 0
    if n_ranks == 1:
        assert plan == ReducePlan()


def test_measured_times_are_those_of_a_link() -> None:
    with ThreadPoolExecutor(3) as pool:
        for times in pool.map(lambda fabric: measure_exchange(fabric, TIMEOUT_S), local_fabrics(3)):
            assert 0 < times.latency_s < TIMEOUT_S
            assert times.byte_s > 0


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        (Kind.REDUCE, {"scatter_bytes": -1, "rounds": True, "overlap_bytes": None}, "negative"),
        (Kind.REDUCE, {"scatter_bytes": 1, "rounds": 1, "overlap_bytes": None}, "rounds is 1"),
        (Kind.REDUCE, {"scatter_bytes": 1}, "malformed ReduceChoice"),
        (Kind.LOADED, {}, "kind 7"),
    ],
)
def test_what_is_no_plan_is_refused(kind: Kind, payload: dict[str, object], error: str) -> None:
    root, worker = local_fabrics(2)
    with ThreadPoolExecutor(1) as pool:
        learned = pool.submit(learn_reduce, worker, TIMEOUT_S)
        measure_exchange(root, TIMEOUT_S)
        send_frame(root, [1], kind, json.dumps(payload).encode(), timeout_s=TIMEOUT_S)
        with pytest.raises(PeerProtocolError, match=error):
            learned.result()


def test_a_root_that_fails_says_why() -> None:
    root, worker = local_fabrics(2)
    with ThreadPoolExecutor(1) as pool:
        learned = pool.submit(learn_reduce, worker, TIMEOUT_S)
        measure_exchange(root, TIMEOUT_S)
        send_frame(root, [1], Kind.FAILED, Refusal("no disk").encode(), timeout_s=TIMEOUT_S)
        with pytest.raises(PeerError, match="no disk"):
            learned.result()
