"""The API over a root and two workers: the same answers, and what happens when one of them dies."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest

from support.api_process import MODEL, ApiProcess, ask
from support.endless import long_context
from support.processes import TIMEOUT_S, WorkerPool, WorkerProcess, wait_until, worker_processes

QUESTION = "What is nine plus eight?"


@pytest.fixture(scope="module")
def api(pool: WorkerPool) -> Iterator[ApiProcess]:
    with ApiProcess(workers=pool.addresses(2)) as process:
        yield process


def test_three_nodes_answer(api: ApiProcess) -> None:
    with api.openai() as client:
        answer = client.chat.completions.create(**ask(QUESTION))
        assert answer.choices[0].message.content == "9 + 8 = 17."
        schema = {"type": "object", "properties": {"n": {"enum": [17, 18]}}, "required": ["n"]}
        wanted = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
        answer = client.chat.completions.create(**ask(QUESTION, response_format=wanted, max_tokens=30))
        assert (answer.choices[0].message.content or "").startswith('{"n": 1')
        assert len(client.embeddings.create(model=MODEL, input="a fox").data[0].embedding) == 256


def test_second_turn_computes_only_new_tokens(api: ApiProcess) -> None:
    with api.openai() as client:
        messages = [{"role": "user", "content": "Tell me a story about a pony and a lion."}]
        first = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
        messages.append({"role": "assistant", "content": first.choices[0].message.content or ""})
        messages.append({"role": "user", "content": "What was the name of the pony?"})
        before = api.metrics()
        second = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=1)
        after = api.metrics()
    assert first.usage is not None
    assert second.usage is not None
    n_computed = sum(
        (after[name] - before[name]) * sign
        for name, sign in (("prompt_tokens_total", 1), ("cached_prompt_tokens_total", -1))
    )
    assert n_computed <= second.usage.prompt_tokens - first.usage.total_tokens + 2


def test_the_cluster_is_shown(api: ApiProcess, pool: WorkerPool) -> None:
    view = api.get("/api/cluster").json()
    assert [node["name"] for node in view["nodes"]] == ["root", *pool.addresses(2)]
    assert sum(node["share"] for node in view["nodes"]) == pytest.approx(1)
    for node in view["nodes"]:
        assert node["last"]["compute_s"] > 0
        assert node["mean"]["wait_s"] >= 0
        assert min(node["weight_bytes"], node["kv_bytes"], node["n_threads"], node["sent_bytes"]) > 0
    assert view["engine"]["completion_tokens"] > 0


def test_a_worker_dies() -> None:
    """Requests in flight fail in OpenAI's shape; with a worker at its address, the API goes on."""
    with (
        worker_processes(2) as (survivor, victim),
        ApiProcess(*long_context(), workers=[survivor.address, victim.address]) as api,
    ):
        with api.openai() as client:
            stream = client.chat.completions.create(
                **ask("Tell me a story.", stream=True, extra_body={"ignore_eos": True})
            )
            next(iter(stream))
            victim.kill()
            with pytest.raises(openai.APIError, match=f"lost worker {victim.address}"):
                list(stream)
            health = api.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "recovering")
            assert victim.address in health.json()["reason"]
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(**ask(QUESTION))
            assert caught.value.status_code == 503
            assert caught.value.response.headers["Retry-After"]
            assert api.get("/api/cluster").json()["status"] == "recovering"
            assert api.metrics()["up"] == 0
            with WorkerProcess("--port", victim.address.split(":")[1]):
                wait_until(lambda: api.get("/health").status_code == 200, TIMEOUT_S)
                answer = client.chat.completions.create(**ask(QUESTION))
                assert answer.choices[0].message.content == "9 + 8 = 17."
        api.terminate()
        assert api.finish().code == 143


def test_a_worker_is_lost_while_nobody_asks() -> None:
    """The cluster's state is true within the time that a node may be silent, and the model comes back by itself."""
    with (
        worker_processes(2) as (survivor, victim),
        ApiProcess("--peer-timeout", 2, workers=[survivor.address, victim.address]) as api,
    ):
        assert api.get("/health").status_code == 200
        victim.pause()
        stopped = time.time()
        wait_until(lambda: api.get("/health").status_code == 503)
        assert time.time() - stopped < 3
        view = api.get("/api/cluster").json()
        assert view["status"] == "recovering"
        assert f"lost worker {victim.address}" in view["reason"]
        names = {node["name"]: (node["lost_since"], node["lost_reason"]) for node in view["nodes"]}
        assert names["root"] == names[survivor.address] == (None, None)
        since, reason = names[victim.address]
        assert stopped - 2 < since < stopped + 1
        assert "no sign of life" in reason
        victim.go_on()
        wait_until(lambda: api.get("/health").status_code == 200)
        assert [node["lost_since"] for node in api.get("/api/cluster").json()["nodes"]] == [None] * 3


def test_a_worker_dies_while_nobody_asks() -> None:
    with (
        worker_processes(1) as (victim,),
        ApiProcess(workers=[victim.address]) as api,
    ):
        assert api.get("/health").status_code == 200
        victim.kill()
        api.err.wait_for(f"lost worker {victim.address}.*trying to load the model again")
        node = api.get("/api/cluster").json()["nodes"][1]
        assert node["lost_reason"] in ("it closed the connection", "connection reset by peer")
        with WorkerProcess("--port", victim.address.split(":")[1]):
            api.err.wait_for("the model is ready again")
            assert api.get("/health").status_code == 200
