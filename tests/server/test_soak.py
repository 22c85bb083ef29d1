"""A thousand requests of all kinds, a third of them cut off: nothing leaks, and all other answers are right."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from support.api_process import ApiProcess, ask, events_of
from support.processes import TIMEOUT_S, wait_until

N_REQUESTS = 1000
N_CLIENTS = 12
THREADS = {
    "main": 1,
    "keeper": 1,
    "engine": 1,
    "heartbeat": 1,
    "grammar": 1,
    "masks": 2,
    "prompts": 2,
    "tokenizers": 2,
}
"""All that the process may ever have. The last four are pools, whose threads come to be when they are first wanted;
that of tokenizers is told its size, which would be the number of cores."""

PROCESSES = THREADS["prompts"]
"""That render chat templates, each with two pipes: one for each thread that wants one at the same time."""

CHAT = "/v1/chat/completions"
QUESTION = "What is nine plus eight?"
ANSWER = "9 + 8 = 17."
SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}
ENDLESS = ask("Tell me a story about a fox.", ignore_eos=True, stream=True)


class Client:
    """One of those who ask at the same time; every method is one request, and asserts what it has to give."""

    def __init__(self, api: ApiProcess, seed: int) -> None:
        self._url = api.url
        self._port = int(api.url.rpartition(":")[2])
        self._random = random.Random(seed)
        self._session = requests.Session()
        self._whole = [
            self.chat,
            self.streamed_chat,
            self.two_choices,
            self.completion,
            self.schema,
            self.embedding,
        ]
        self._malformed = [self.no_json, self.wrong_type, self.too_long, self.unknown_constraint]
        self._cut = [self.cut_stream, self.cut_whole, self.cut_request]

    def run(self, n: int) -> None:
        """`n` requests: of 30 about 10 are cut off and 3 malformed."""
        for _ in range(n):
            kinds = self._random.choices((self._cut, self._malformed, self._whole), (10, 3, 17))[0]
            self._random.choice(kinds)()
        self._session.close()

    def chat(self) -> None:
        body = self._post(CHAT, ask(QUESTION), 200).json()
        assert body["choices"][0]["message"]["content"] == ANSWER

    def streamed_chat(self) -> None:
        *events, done = events_of(self._post(CHAT, ask(QUESTION, stream=True), 200))
        assert done == "[DONE]"
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == ANSWER

    def two_choices(self) -> None:
        body = self._post(CHAT, ask(QUESTION, n=2), 200).json()
        assert [choice["message"]["content"] for choice in body["choices"]] == [ANSWER, ANSWER]

    def completion(self) -> None:
        fields = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
        assert (
            self._post("/v1/completions", fields, 200)
            .json()["choices"][0]["text"]
            .startswith(", a young girl")
        )

    def schema(self) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        body = self._post(CHAT, ask(QUESTION, response_format=wanted), 200).json()
        assert json.loads(body["choices"][0]["message"]["content"])["n"] in (1, 2)

    def embedding(self) -> None:
        assert (
            len(self._post("/v1/embeddings", {"input": "a fox"}, 200).json()["data"][0]["embedding"]) == 256
        )

    def no_json(self) -> None:
        headers = {"Content-Type": "application/json"}
        response = self._session.post(self._url + CHAT, data=b"{", headers=headers, timeout=TIMEOUT_S)
        assert response.status_code == 400

    def wrong_type(self) -> None:
        self._post(CHAT, ask("x", temperature="hot"), 400)

    def too_long(self) -> None:
        self._post(CHAT, ask("fox " * 1200), 400)

    def unknown_constraint(self) -> None:
        self._post(CHAT, ask("x") | {"grammar": "root ::= x"}, 400)

    def cut_stream(self) -> None:
        """After some of its events; none is enough to see that it had begun."""
        with requests.post(self._url + CHAT, json=ENDLESS, stream=True, timeout=TIMEOUT_S) as response:
            assert response.status_code == 200
            n_lines = self._random.randrange(30)
            for number, _ in enumerate(response.iter_lines()):
                if number >= n_lines:
                    break

    def cut_whole(self) -> None:
        """While the answer, which would come in one piece, is being computed."""
        self._send(json.dumps(ENDLESS | {"stream": False}).encode())

    def cut_request(self) -> None:
        """In the middle of the body."""
        body = json.dumps(ENDLESS).encode()
        self._send(body[: self._random.randrange(len(body))], len(body))

    def _send(self, body: bytes, declared: int | None = None) -> None:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {declared or len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S) as connection:
            connection.sendall(head.encode() + body)
            connection.settimeout(self._random.random() * 0.05)
            with contextlib.suppress(TimeoutError):
                assert connection.recv(1) == b"", "an endless answer has no end"

    def _post(self, path: str, body: object, status: int) -> requests.Response:
        response = self._session.post(self._url + path, json=body, timeout=TIMEOUT_S)
        assert response.status_code == status, response.text
        return response


@pytest.fixture
def api() -> Iterator[ApiProcess]:
    with ApiProcess("--speculate", 3, env={"RAYON_NUM_THREADS": str(THREADS["tokenizers"])}) as process:
        yield process


@pytest.mark.slow
def test_a_thousand_requests(api: ApiProcess) -> None:
    ask_all(api, N_CLIENTS * 6, seed=100)  # pools and caches come to be once
    before = settled(api)
    ask_all(api, N_REQUESTS, seed=200)
    after = settled(api)
    assert after["kv_pages_used"] == 0
    total = [numbers["kv_pages_cached"] + numbers["kv_pages_free"] for numbers in (before, after)]
    assert total[0] == total[1]
    assert after["threads"] <= sum(THREADS.values())
    n_processes = [numbers["processes"] for numbers in (before, after)]
    assert n_processes[1] <= PROCESSES
    assert after["descriptors"] - 2 * n_processes[1] <= before["descriptors"] - 2 * n_processes[0]
    assert after["rss_bytes"] - before["rss_bytes"] < 16e6
    assert api.post(CHAT, ask(QUESTION)).json()["choices"][0]["message"]["content"] == ANSWER
    api.terminate()
    done = api.finish()
    assert done.code == 143
    assert "Traceback" not in done.err


def ask_all(api: ApiProcess, n_requests: int, seed: int) -> None:
    share = -(-n_requests // N_CLIENTS)
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        runs = [pool.submit(Client(api, seed + number).run, share) for number in range(N_CLIENTS)]
        for run in runs:
            run.result()


def settled(api: ApiProcess) -> dict[str, float]:
    """What the process holds, once it has seen that everybody is gone."""

    def is_idle() -> bool:
        numbers = api.metrics()
        return numbers["requests_running"] == numbers["requests_queued"] == 0

    def is_alone() -> bool:
        listening = {"LISTEN", "NONE"}
        return all(found.status in listening for found in api.process.net_connections("tcp"))

    wait_until(is_idle)
    numbers, process = api.metrics(), api.process
    wait_until(is_alone)
    return numbers | {
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
        "processes": len(process.children()),
        "rss_bytes": process.memory_info().rss,
    }
