"""`dllama api` as a process of its own, and ways to ask it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import openai
import psutil
import requests

from support.processes import TIMEOUT_S, Running

MODEL = "demo"
CHAT = "/v1/chat/completions"


class ApiProcess(Running):
    """`dllama api` with the demo model on a free port of loopback."""

    def __init__(
        self, *arguments: object, workers: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        command: list[object] = ["api", "--port", 0, "--nthreads", 1, "--model-name", MODEL]
        if workers:
            command += ["--workers", *workers]
        super().__init__(*command, *arguments, env=env)
        self._url = ""

    @property
    def url(self) -> str:
        """Waits until it listens."""
        self._url = self._url or self.err.wait_for(r"is served on (\S+)")[1]
        return self._url

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.pid)

    def openai(self, api_key: str = "any") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=TIMEOUT_S)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=TIMEOUT_S, **options)

    def post(self, path: str, body: object, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=TIMEOUT_S, **options)

    def metrics(self) -> dict[str, float]:
        """The engine's numbers, without the prefix."""
        lines = re.findall(r"^dllama_(\w+) (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return {name: float(value) for name, value in lines}


def events_of(response: requests.Response) -> list[Any]:
    """The data of a stream's events, to its end, without the comments between them; [DONE] as it is."""
    events = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(": "):
            continue
        assert block.startswith("data: "), block
        data = block.removeprefix("data: ")
        events.append(data if data == "[DONE]" else json.loads(data))
    return events


def ask(text: str, **fields: object) -> dict[str, Any]:
    """The body of a greedy chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def error_of(response: requests.Response, status: int) -> dict[str, Any]:
    """The error of an answer with this status, which is asserted to have OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    error: dict[str, Any] = body["error"]
    return error
