"""What clients of the API do, good and bad, each as one function that returns how it went."""

from __future__ import annotations

import collections
import contextlib
import random
import threading
from collections.abc import Callable

import requests

from soak.processes import MODEL

TIMEOUT_S = 60.0

Ask = Callable[[str, random.Random], str]
"""ask(url of the API, random numbers): "ok", or the status and reason of what came instead."""


def _post(url: str, path: str, body: object, **options: object) -> requests.Response:
    return requests.post(url + path, json=body, timeout=TIMEOUT_S, headers={"Connection": "close"}, **options)  # type: ignore[arg-type]


def _chat_body(rng: random.Random, **fields: object) -> dict[str, object]:
    text = " ".join(
        rng.choices(["Hello", "where", "is", "the", "cat", "story", "2", "and", "3"], k=rng.randint(2, 60))
    )
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 40, **fields}


def _outcome(response: requests.Response, *expected: int) -> str:
    if response.status_code in (expected or (200,)):
        return "ok"
    return f"{response.status_code}"


def chat(url: str, rng: random.Random) -> str:
    return _outcome(_post(url, "/v1/chat/completions", _chat_body(rng)))


def stream(url: str, rng: random.Random) -> str:
    with _post(url, "/v1/chat/completions", _chat_body(rng, stream=True), stream=True) as response:
        text = response.text
    if response.status_code != 200:
        return f"{response.status_code}"
    return "ok" if text.rstrip().endswith("[DONE]") else "stream ended by an error"


def dropped_stream(url: str, rng: random.Random) -> str:
    with _post(
        url, "/v1/chat/completions", _chat_body(rng, stream=True, max_tokens=200), stream=True
    ) as response:
        for _, _line in zip(range(rng.randint(1, 12)), response.iter_lines(), strict=False):
            pass
        return _outcome(response)


def completion(url: str, rng: random.Random) -> str:
    body = {
        "model": MODEL,
        "prompt": "Once upon a time",
        "max_tokens": rng.randint(1, 64),
        "n": rng.randint(1, 3),
    }
    return _outcome(_post(url, "/v1/completions", body))


def schema(url: str, rng: random.Random) -> str:
    form = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "who": {"type": "string", "maxLength": 9}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "form", "schema": form}}
    return _outcome(_post(url, "/v1/chat/completions", _chat_body(rng, response_format=wanted)))


def embedding(url: str, rng: random.Random) -> str:
    return _outcome(_post(url, "/v1/embeddings", {"model": MODEL, "input": ["a cat"] * rng.randint(1, 4)}))


def long_prompt(url: str, rng: random.Random) -> str:
    return _outcome(
        _post(url, "/v1/completions", {"model": MODEL, "prompt": "word " * 400_000}), 400, 413, 429
    )


def bad_body(url: str, rng: random.Random) -> str:
    broken = rng.choice(
        [b"{", b"[" * 5000, b"\xff\xfe", b'{"messages": 3}', b'{"messages": [' + b'{"a":' * 900]
    )
    headers = {"Content-Type": "application/json", "Connection": "close"}
    response = requests.post(url + "/v1/chat/completions", data=broken, headers=headers, timeout=TIMEOUT_S)
    return _outcome(response, 400)


def heavy_grammar(url: str, rng: random.Random) -> str:
    form = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(((a{100}){100}){100}){100}$"}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "form", "schema": form}}
    return _outcome(_post(url, "/v1/chat/completions", _chat_body(rng, response_format=wanted)), 200, 400)


def look(url: str, rng: random.Random) -> str:
    path = rng.choice(["/api/cluster", "/metrics", "/v1/models", "/", "/nowhere"])
    response = requests.get(url + path, timeout=TIMEOUT_S, headers={"Connection": "close"})
    return _outcome(response, 200, 404)


ASKS: dict[Ask, int] = {
    chat: 4, stream: 6, dropped_stream: 4, completion: 3, schema: 2, embedding: 2, long_prompt: 1, bad_body: 2,
    heavy_grammar: 1, look: 3,
}  # fmt: skip
"""How often each is chosen, relatively."""

REFUSALS = frozenset({"429", "503", "connection", "stream ended by an error"})
"""What may come while nodes are lost or everyone asks at once; everything else that is not "ok" is a fault of ours."""


class Clients:
    """Threads that ask again and again, between `begin` and `rest`."""

    def __init__(self, url: str, n_clients: int, seed: int) -> None:
        self._url, self._n_clients, self._seed = url, n_clients, seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.outcomes: collections.Counter[tuple[str, str]] = collections.Counter()

    def begin(self, cycle: int) -> None:
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._ask, args=(random.Random(f"{self._seed}/{cycle}/{index}"),))
            for index in range(self._n_clients)
        ]
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """Waits for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def faults(self) -> dict[tuple[str, str], int]:
        """(what was asked, how it ended) of all that should not have happened."""
        allowed = REFUSALS | {"ok"}
        return {key: n for key, n in self.outcomes.items() if key[1] not in allowed}

    def _ask(self, rng: random.Random) -> None:
        asks, weights = list(ASKS), list(ASKS.values())
        while not self._stop.is_set():
            ask = rng.choices(asks, weights)[0]
            outcome = "connection"
            with contextlib.suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                try:
                    outcome = ask(self._url, rng)
                except requests.Timeout:
                    outcome = f"no answer for {TIMEOUT_S:g} s"
            self.outcomes[ask.__name__, outcome] += 1
            if outcome in ("429", "503", "connection"):
                self._stop.wait(0.2)
