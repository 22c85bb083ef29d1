"""How long loading takes beside copying the same bytes once over a socket of this computer, in pairs.

    python tools/measure_load.py MODEL.m TOKENIZER.t [PAIRS]

A root loads half of the model itself and sends the other half to one worker; the copy sends as many bytes as that
worker got, from the mapped file, to a process that reads them into memory.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo import DLLAMA, worker

_BUFFER_BYTES = 4 << 20


def main() -> None:
    model, tokenizer = sys.argv[1:3]
    n_pairs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    pairs = []
    with worker() as address:
        for _ in range(n_pairs):
            load_s, n_bytes = load(model, tokenizer, address)
            copy_s = copy(Path(model), n_bytes)
            pairs.append(load_s / copy_s)
            print(f"load {load_s:.3f} s, copy of {n_bytes / 1e6:.0f} MB {copy_s:.3f} s: {pairs[-1]:.2f}")
    print(f"median {statistics.median(pairs):.2f}, least {min(pairs):.2f}, most {max(pairs):.2f}")


def load(model: str, tokenizer: str, address: str) -> tuple[float, int]:
    """Seconds, and bytes sent to the worker."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [
            *DLLAMA, "inference", "--model", model, "--tokenizer", tokenizer, "--prompt", "a", "--steps", "4",
            "--nthreads", "1", "--max-seq-len", "64", "--workers", address, "--report", str(report),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        values = json.loads(report.read_text())["load"]
    return values["seconds"], values["sent_bytes"]


def copy(path: Path, n_bytes: int) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = multiprocessing.Process(target=_read, args=(listener.getsockname(), n_bytes))
        reader.start()
        connection, _ = listener.accept()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, connection:
            connection.recv(1)
            start = time.perf_counter()
            with memoryview(mapped) as view, view[:n_bytes] as part:
                connection.sendall(part)
            connection.recv(1)
            seconds = time.perf_counter() - start
        reader.join()
    return seconds


def _read(address: tuple[str, int], n_bytes: int) -> None:
    """Reads into memory like that of the weights: it stays, and lies on huge pages where the system has them."""
    with socket.create_connection(address) as connection:
        mapped = mmap.mmap(-1, n_bytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapped.madvise(mmap.MADV_HUGEPAGE)
        memory = memoryview(mapped)
        connection.sendall(b"r")
        received = 0
        while received < n_bytes:
            received += connection.recv_into(memory[received : received + _BUFFER_BYTES])
        connection.sendall(b"d")


if __name__ == "__main__":
    main()
