"""The page's server without a model: real HTTP, with replies and a cluster that a test lays down, also rare ones."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import mimetypes
import select
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dllama

WEB = Path(dllama.__file__).parent / "server" / "web"
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
"""What the server sends with the page."""


@dataclasses.dataclass(kw_only=True)
class Reply:
    """One answer of /v1/chat/completions: pieces of text, or an error in their place.

    `prompt` are the comments that come first: how many of the prompt's tokens are computed, of how many. `thoughts`
    come apart from the text. After `n_before_gate` pieces it goes on when `gate` is set, or ends when the client goes
    away, which sets `cut`.
    """

    pieces: Sequence[str] = ()
    prompt: Sequence[tuple[int, int]] = ()
    thoughts: Sequence[str] = ()
    finish: str = "stop"
    n_before_gate: int | None = None
    gate: threading.Event = dataclasses.field(default_factory=threading.Event)
    cut: threading.Event = dataclasses.field(default_factory=threading.Event)
    breaks: bool = False
    status: int = 200
    message: str = ""
    code: str | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    usage: tuple[int, int] = (24, 16)


MARGINS = {"little_wait": 0.08, "waits_apart": 0.04}
DEFAULTS = {
    "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "max_tokens": None, "seed": None,
}  # fmt: skip


def node(
    rank: int, compute_ms: float, wait_ms: float, wire_ms: float, share: float = 1 / 3
) -> dict[str, Any]:
    """A node as GET /api/cluster tells of it."""
    times = {"compute_s": compute_ms / 1000, "wait_s": wait_ms / 1000, "wire_s": wire_ms / 1000}
    return {
        "rank": rank,
        "name": "root" if rank == 0 else f"10.0.0.{rank}:9998",
        "share": share,
        "weight_bytes": round(770e6 * share),
        "kv_bytes": round(256e6 * share),
        "n_threads": 4,
        "isa": "avx2" if rank == 0 else "neon-dotprod",
        "memory_bytes": 16 << 30 if rank == 0 else 8 << 30,
        "last": times,
        "mean": times,
        "sent_bytes": 0,
        "received_bytes": 0,
        "lost_since": None,
        "lost_reason": None,
    }


def cluster_view(nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": "llama-3.2-1b",
        "status": "ok",
        "reason": None,
        "max_model_len": 8192,
        "nodes": list(nodes),
        "margins": MARGINS,
        "engine": {
            "running": 1, "queued": 0, "pages_total": 128, "pages_used": 36, "pages_cached": 22,
            "prompt_tokens": 5120, "cached_tokens": 3890, "completion_tokens": 2300, "steps": 2410,
            "preemptions": 0, "tok_per_s": 24.1,
        },
    }  # fmt: skip


class FakeApi:
    """Listens on a free port of loopback from `start` to `close`; each reply of `replies` answers one request."""

    def __init__(self, port: int = 0) -> None:
        self.replies: collections.deque[Reply] = collections.deque()
        self.requests: list[dict[str, Any]] = []
        self.cluster = cluster_view([node(0, 28, 12, 4), node(1, 27, 13, 4), node(2, 40, 0, 4)])
        self.n_polls = 0
        self.api_key: str | None = None
        self._port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), type("Handler", (_Handler,), {"api": self}))
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Ends it, as a server that is gone; `start` brings it back on the same port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeApi]:
        self.start()
        try:
            yield self
        finally:
            self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        if self.path == "/api/cluster":
            self.api.n_polls += 1
            if self._has_key():
                self._send_json(200, self.api.cluster)
            return
        if self.path in ("/api/defaults", "/v1/models"):
            if self._has_key():
                self._send_json(
                    200, DEFAULTS if self.path == "/api/defaults" else {"object": "list", "data": []}
                )
            return
        file = WEB / (self.path.strip("/") or "index.html")
        if file.is_file():
            kind = mimetypes.guess_type(file.name)[0] or "text/plain"
            self._send(200, file.read_bytes(), {"Content-Type": kind, **PAGE_HEADERS})
        else:
            self._send_error(404, f"there is no {self.path} here", None)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._has_key():
            return
        self.api.requests.append(body)
        words = ["You said: ", body["messages"][-1]["content"]]
        reply = self.api.replies.popleft() if self.api.replies else Reply(pieces=words)
        if reply.status == 200:
            self._stream(reply)
        else:
            self._send_error(reply.status, reply.message, reply.code, reply.headers)

    def _has_key(self) -> bool:
        key = self.api.api_key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        given = self.headers.get("Authorization")
        message = "the API key is not one of this server's" if given else "this server needs an API key"
        self._send_error(401, message, "invalid_api_key")
        return False

    def _stream(self, reply: Reply) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._event(_chunk({"role": "assistant", "content": ""}))
        for n_done, n_all in reply.prompt:
            self.wfile.write(f": prompt {n_done}/{n_all}\n\n".encode())
        for thought in reply.thoughts:
            self._event(_chunk({"reasoning_content": thought}))
        for index, piece in enumerate(reply.pieces):
            if index == reply.n_before_gate and not self._pass(reply):
                return
            self._event(_chunk({"content": piece}))
        if reply.message:
            self._event({"error": _error(reply.message, reply.code)})
        if reply.breaks or reply.message:
            return
        self._event(_chunk({}, reply.finish))
        n_prompt, n_cached = reply.usage
        usage = {"prompt_tokens": n_prompt, "completion_tokens": len(reply.pieces)}
        self._event({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": n_cached}}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _pass(self, reply: Reply) -> bool:
        """Whether the gate opened before the client went away."""
        while not reply.gate.wait(0.01):
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and self.connection.recv(1, socket.MSG_PEEK) == b"":
                reply.cut.set()
                return False
        return True

    def _event(self, content: Mapping[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

    def _send_error(
        self, status: int, message: str, code: str | None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send_json(status, {"error": _error(message, code)}, headers)

    def _send_json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(
            status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def _error(message: str, code: str | None) -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "param": None, "code": code}
