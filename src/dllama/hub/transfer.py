"""One file from the Hub: resumed where an earlier attempt ended, tried again where the network fails, and checked.

A file in the making has the suffix `.DIGEST.part`, so that what was begun of another version is never gone on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import huggingface_hub

from dllama import __version__
from dllama.errors import DownloadError
from dllama.hub.listing import HubFile, Repository

_MOST_ATTEMPTS = 6
"""In turn without a byte between them: about a minute with the pauses."""
_LONGEST_PAUSE_S = 60.0
_SILENCE_S = 30.0
_CHUNK_BYTES = 1 << 20
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

OnBytes = Callable[[int], None]
"""on_bytes(n): so many more bytes of the file are here; less than 0 where some have to be fetched again."""


class _TryAgainError(Exception):
    """What may be otherwise in a moment. `pause_s`: how long the server asks to wait."""

    def __init__(self, what: str, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.pause_s = pause_s


def part_path(folder: Path, file: HubFile) -> Path:
    place = folder / file.name
    return place.with_name(f"{place.name}.{file.digest[:12] or 'unknown'}.part")


def fetch_file(
    repository: Repository,
    file: HubFile,
    folder: Path,
    token: str | None,
    on_bytes: OnBytes,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The path of `file` below `folder`, whole and with the digest that the Hub names; nothing is fetched where it is
    there already in its size. Raises DownloadError; what has come stays, for the next time."""
    place, part = folder / file.name, part_path(folder, file)
    if place.is_file() and place.stat().st_size == file.size:
        on_bytes(file.size)
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = _Digest(file)
    n_here = digest.take(part) if part.exists() else 0
    if n_here > file.size:
        part.unlink()
        digest, n_here = _Digest(file), 0
    on_bytes(n_here)
    n_here = _fetch(repository, file, part, n_here, token, on_bytes, digest, sleep)
    if not digest.is_right():
        part.unlink()
        on_bytes(-n_here)
        raise DownloadError(
            f"{repository.name}: {file.name} arrived damaged (its digest is not the one that the Hub names), and is"
            " removed; download it again"
        )
    part.replace(place)
    return place


def _fetch(
    repository: Repository,
    file: HubFile,
    part: Path,
    n_here: int,
    token: str | None,
    on_bytes: OnBytes,
    digest: _Digest,
    sleep: Callable[[float], None],
) -> int:
    """Appends to `part` until it is whole; returns its size."""
    n_failed = 0
    part.touch()
    while n_here < file.size:
        n_before = n_here
        try:
            with part.open("r+b") as out:
                out.seek(n_here)
                for chunk in _chunks(repository, file, n_here, token):
                    out.write(chunk)
                    digest.update(chunk)
                    n_here += len(chunk)
                    on_bytes(len(chunk))
        except _TryAgainError as error:
            n_failed = n_failed + 1 if n_here == n_before else 1
            if n_failed >= _MOST_ATTEMPTS:
                raise DownloadError(
                    f"{repository.name}: {file.name} cannot be fetched ({error}); what has come is kept: the same"
                    " command goes on from there"
                ) from error
            pause_s = 2.0 ** (n_failed - 1) if error.pause_s is None else error.pause_s
            sleep(min(pause_s, _LONGEST_PAUSE_S))
    return n_here


def _chunks(repository: Repository, file: HubFile, start: int, token: str | None) -> Iterator[bytes]:
    """The bytes from `start` to the file's end. Raises _TryAgainError where they end too early, DownloadError for what
    stays as it is."""
    url = huggingface_hub.hf_hub_url(repository.name, file.name, revision=repository.revision)
    headers = {
        "User-Agent": f"dllama/{__version__}",
        "Range": f"bytes={start}-",
        "Accept-Encoding": "identity",
    }
    if token:
        headers["Authorization"] = f"Bearer {token}"  # a redirection to another host goes without it
    n_left = file.size - start
    with _network_faults(), contextlib.ExitStack() as open_until_here:
        client = huggingface_hub.get_session()
        response = open_until_here.enter_context(
            client.stream("GET", url, headers=headers, timeout=_SILENCE_S, follow_redirects=True)
        )
        n_skipped = _bytes_before(repository, file, response, start)
        for chunk in response.iter_raw():
            if n_skipped:
                n_cut = min(n_skipped, len(chunk))
                n_skipped -= n_cut
                chunk = chunk[n_cut:]
            if len(chunk) > n_left:
                raise DownloadError(_wrong_size(repository, file, "more"))
            n_left -= len(chunk)
            if chunk:
                yield chunk
    if n_left:
        raise _TryAgainError(f"the connection ended {n_left} bytes early")


def _bytes_before(repository: Repository, file: HubFile, response: httpx2.Response, start: int) -> int:
    """How many bytes come before the first that is wanted: a server need not know ranges."""
    status = response.status_code
    if status in _TRANSIENT:
        raise _TryAgainError(f"{status} {response.reason_phrase}".strip(), _retry_after(response))
    if status == 206:
        span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != start or int(span[2]) != file.size:
            raise DownloadError(_wrong_size(repository, file, "other"))
        return 0
    if status == 200:
        length = response.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length) != file.size:
            raise DownloadError(_wrong_size(repository, file, f"{length}"))
        return start
    if status in (401, 403):
        raise DownloadError(
            f"{repository.name}: {file.name} is not for everyone ({status}): agree to the licence on the model's page,"
            " and set HF_TOKEN to a token of that account"
        )
    raise DownloadError(f"{repository.name}: {file.name} cannot be fetched: the server answers {status}")


@contextlib.contextmanager
def _network_faults() -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as error:
        raise _TryAgainError(f"no byte in {_SILENCE_S:.0f} s") from error
    except httpx2.TransportError as error:
        raise _TryAgainError(str(error) or type(error).__name__) from error
    except httpx2.HTTPError as error:
        raise DownloadError(f"the server's answer cannot be read ({error})") from error


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None


def _wrong_size(repository: Repository, file: HubFile, got: str) -> str:
    return (
        f"{repository.name}: {file.name} should have {file.size} bytes and the server has {got}; the model may just be"
        " changing, or a mirror be old: try again later"
    )


class _Digest:
    """The digest of what has come so far, beside the one that the Hub names."""

    def __init__(self, file: HubFile) -> None:
        self._wanted = file.digest
        # A git blob's id is the SHA-1 of "blob SIZE\0" and the content (Pro Git, 10.2).
        self._hash = hashlib.sha1(usedforsecurity=False) if file.sha256 is None else hashlib.sha256()
        if file.sha256 is None:
            self._hash.update(f"blob {file.size}\0".encode())

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def take(self, path: Path) -> int:
        """What is there of an earlier attempt; returns its bytes."""
        n_bytes = 0
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                self.update(data)
                n_bytes += len(data)
        return n_bytes

    def is_right(self) -> bool:
        return not self._wanted or self._hash.hexdigest() == self._wanted
