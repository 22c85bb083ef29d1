"""A server that speaks the Hub's API for a few repositories, and misbehaves where a test asks it to."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "c" * 40


@dataclasses.dataclass
class FakeFile:
    """`is_lfs`: a large file, named by the SHA-256 of its content; small ones by git's SHA-1. What else is here is said
    in place of the truth."""

    content: bytes
    is_lfs: bool = True
    sha256: str | None = None
    size: int | None = None

    def described(self, name: str) -> dict[str, object]:
        size = len(self.content) if self.size is None else self.size
        if not self.is_lfs:
            blob = f"blob {len(self.content)}\0".encode() + self.content
            return {"rfilename": name, "size": size, "blobId": hashlib.sha1(blob).hexdigest()}
        sha256 = self.sha256 or hashlib.sha256(self.content).hexdigest()
        lfs = {"sha256": sha256, "size": size, "pointerSize": 130}
        return {"rfilename": name, "size": size, "blobId": "d" * 40, "lfs": lfs}


Fault = Callable[[BaseHTTPRequestHandler, bytes], bool]
"""fault(request, bytes that it asks for): whether it has answered."""


@dataclasses.dataclass
class FakeHub:
    """`faults` of a file's name come into effect one after the other, each for one request. `elsewhere`: the address of
    another server that files are fetched from."""

    files: dict[str, dict[str, FakeFile]] = dataclasses.field(default_factory=dict)
    faults: dict[str, list[Fault]] = dataclasses.field(default_factory=dict)
    description: dict[str, object] = dataclasses.field(default_factory=dict)
    listing: Fault | None = None
    elsewhere: str | None = None
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)

    def ranges_of(self, name: str) -> list[str]:
        """The range that each request for the file had, in turn."""
        return [headers.get("range", "") for path, headers in self.requests if path.endswith(f"/{name}")]


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cut_after(n_bytes: int) -> Fault:
    """The connection ends after so many bytes of the content."""

    def fault(request: BaseHTTPRequestHandler, content: bytes) -> bool:
        _head(request, content)
        request.wfile.write(content[:n_bytes])
        request.close_connection = True
        return True

    return fault


def answers(status: int, **headers: str) -> Fault:
    def fault(request: BaseHTTPRequestHandler, content: bytes) -> bool:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return True

    return fault


def says(status: int, body: bytes, **headers: str) -> Fault:
    def fault(request: BaseHTTPRequestHandler, content: bytes) -> bool:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
        return True

    return fault


def _head(request: BaseHTTPRequestHandler, content: bytes) -> None:
    span = request.headers.get("Range", "")
    start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
    request.send_response(206 if span else 200)
    if span:
        n = start + len(content)
        request.send_header("Content-Range", f"bytes {start}-{n - 1}/{n}")
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
            if path.startswith("/api/models/"):
                self._describe(path.removeprefix("/api/models/"))
            elif match := re.fullmatch(r"/(?:files/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._send(*match.groups(), is_here=path.startswith("/files/") or hub.elsewhere is None)
            else:
                answers(404)(self, b"")

        def _describe(self, repo: str) -> None:
            if hub.listing is not None and hub.listing(self, b""):
                return
            if repo not in hub.files:
                says(404, b"{}", X_Error_Code="RepoNotFound")(self, b"")
                return
            siblings = [file.described(name) for name, file in hub.files[repo].items()]
            about = {"id": repo, "sha": REVISION, "siblings": siblings, "cardData": {"license": "mit"}}
            says(200, json.dumps(about | hub.description).encode(), Content_Type="application/json")(
                self, b""
            )

        def _send(self, repo: str, revision: str, name: str, is_here: bool) -> None:
            if not is_here:
                answers(302, Location=f"{hub.elsewhere}/files{self.path}")(self, b"")
                return
            file = hub.files.get(repo, {}).get(name)
            if file is None or revision != REVISION:
                answers(404)(self, b"")
                return
            span = self.headers.get("Range", "")
            content = file.content[int(span.removeprefix("bytes=").removesuffix("-")) if span else 0 :]
            faults = hub.faults.get(name, [])
            if faults and faults.pop(0)(self, content):
                return
            _head(self, content)
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
