"""A home network on one Linux machine: up to 8 nodes on a virtual switch with links of a chosen speed. Run it as root.

    python tools/testbed.py --nodes 4 dllama inference --prompt "Hello" --workers WORKERS
    python tools/testbed.py --nodes 3 --slow 2=100mbit dllama bench fabric --workers WORKERS
    python tools/testbed.py --nodes 2 --everywhere ip address

Node 0 runs the command and every other node `dllama worker`; the word WORKERS stands for their addresses. With
--everywhere all nodes run the command, and there are no workers. What has crossed each link is printed at the end.

Every node is a network namespace with one interface, eth0, a veth pair to a bridge in a namespace of its own; a token
bucket (tbf) on both ends limits it. Nothing else of the machine is touched. Namespaces carry the number of the process
that made them, so that what a killed one left behind is removed by the next.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_NODES = 8
PORT = 9990
SUBNET = "10.77.0"
_PREFIX = "dllama-bed"
_SHAPE = ("burst", "72kb", "latency", "50ms")
"""A bucket that takes the largest packets of TCP, 64 kB and its headers. Larger ones than the bucket would be cut into
1500 bytes by the nodes' cores, which a network card does by itself."""
_STARTED_S = 60.0

_numbers = itertools.count()


class Bed:
    """`n_nodes` nodes on a switch; a context manager. `rates` gives single nodes another link ({2: "100mbit"}).
    `Popen` and `run` start commands on nodes; whatever still runs at the end is killed."""

    def __init__(
        self, n_nodes: int, rate: str | None = "1gbit", rates: Mapping[int, str] | None = None
    ) -> None:
        assert 1 <= n_nodes <= MOST_NODES
        self.n_nodes = n_nodes
        self._rates = {node: (rates or {}).get(node, rate) for node in range(n_nodes)}
        self._name = f"{_PREFIX}.{os.getpid()}.{next(_numbers)}"

    def __enter__(self) -> Bed:
        remove_left_behind()
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in _namespaces():
            if name.startswith(f"{self._name}."):
                _remove(name)

    def address(self, node: int) -> str:
        return f"{SUBNET}.{node + 1}"

    def command(self, node: int, *arguments: object) -> list[str]:
        """`arguments` as a command that runs on a node."""
        return ["ip", "netns", "exec", self._node(node), *map(str, arguments)]

    def popen(self, node: int, *arguments: object, **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(self.command(node, *arguments), **options)

    def set_rate(self, node: int, rate: str) -> None:
        """Changes the speed of a node's link, both ways."""
        for namespace, device in ((self._node(node), "eth0"), (self._switch, f"port{node}")):
            _ip_tc("tc", namespace, "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, *_SHAPE)

    def link_bytes(self, node: int) -> LinkBytes:
        """What has crossed a node's link so far, headers of all layers included."""
        line = _ip_tc("ip", self._switch, "-json", "-statistics", "link", "show", "dev", f"port{node}")
        counters = json.loads(line)[0]["stats64"]
        return LinkBytes(sent=counters["rx"]["bytes"], received=counters["tx"]["bytes"])

    @property
    def _switch(self) -> str:
        return f"{self._name}.switch"

    def _node(self, node: int) -> str:
        return f"{self._name}.{node}"

    def _build(self) -> None:
        for name in (self._switch, *map(self._node, range(self.n_nodes))):
            _run("ip", "netns", "add", name)
            _ip_tc("ip", name, "link", "set", "lo", "up")
        _ip_tc("ip", self._switch, "link", "add", "switch", "type", "bridge")
        _ip_tc("ip", self._switch, "link", "set", "switch", "up")
        for node in range(self.n_nodes):
            own, port = self._node(node), f"port{node}"
            _ip_tc(
                "ip", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", own
            )
            _ip_tc("ip", self._switch, "link", "set", port, "master", "switch", "up")
            _ip_tc("ip", own, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            _ip_tc("ip", own, "link", "set", "eth0", "up")
            rate = self._rates[node]
            if rate is not None:
                self.set_rate(node, rate)


@dataclasses.dataclass(frozen=True)
class LinkBytes:
    """As the node sees it."""

    sent: int
    received: int


def missing() -> str | None:
    """Why there can be no test bed here; None where there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "ip or tc is missing: install the package iproute2"
    probe = f"{_PREFIX}.{os.getpid()}.probe"
    try:
        _run("ip", "netns", "add", probe)
        try:
            _ip_tc("ip", probe, "link", "add", "name", "one", "type", "veth", "peer", "name", "two")
            _ip_tc("tc", probe, "qdisc", "add", "dev", "one", "root", "tbf", "rate", "1gbit", *_SHAPE)
        finally:
            _run("ip", "netns", "delete", probe)
    except OSError as error:
        return str(error)
    return None


def remove_left_behind() -> None:
    """Removes the beds of processes that no longer run."""
    for name in _namespaces():
        prefix, _, rest = name.partition(".")
        pid = rest.partition(".")[0]
        if prefix == _PREFIX and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _remove(name)


@contextlib.contextmanager
def workers(bed: Bed, *flags: object) -> Iterator[list[str]]:
    """`dllama worker` on every node but 0; gives their addresses when all of them listen."""
    with contextlib.ExitStack() as stack:
        addresses = []
        listening = []
        for node in range(1, bed.n_nodes):
            process = bed.popen(
                node, sys.executable, "-m", "dllama", "worker", "--host", bed.address(node), "--port", PORT, *flags,
                stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            stack.callback(_end, process)
            addresses.append(f"{bed.address(node)}:{PORT}")
            listening.append(_watch(process, "listens on"))
        deadline = time.monotonic() + _STARTED_S
        for address, event in zip(addresses, listening, strict=True):
            if not event.wait(max(0.0, deadline - time.monotonic())):
                raise OSError(f"the worker at {address} does not listen")
        yield addresses


def _watch(process: subprocess.Popen[str], text: str) -> threading.Event:
    """Set when a line with that text comes; the thread reads on, so that the process never waits for a reader."""
    seen = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if text in line:
                seen.set()

    threading.Thread(target=read, daemon=True).start()
    return seen


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line]


def _remove(name: str) -> None:
    for pid in _run("ip", "netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _run("ip", "netns", "delete", name)


def _ip_tc(program: str, namespace: str, *arguments: str) -> str:
    return _run(program, "-netns", namespace, *arguments)


def _run(*command: str) -> str:
    """Its output. Raises OSError with what it says when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--nodes", type=int, default=3, choices=range(1, MOST_NODES + 1), metavar="N")
    parser.add_argument("--rate", default="1gbit", help="of each link (default %(default)s); none: unlimited")
    parser.add_argument(
        "--slow", action="append", default=[], metavar="NODE=RATE", help="a link of another speed"
    )
    parser.add_argument("--everywhere", action="store_true", help="run the command on all nodes")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(arguments)
    if not args.command:
        parser.error("give a command to run")
    return args


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the bed is taken down
    args = _arguments(arguments)
    reason = missing()
    if reason:
        print(f"no test bed here: {reason}", file=sys.stderr)
        return 1
    rates = {int(node): rate for node, _, rate in (text.partition("=") for text in args.slow)}
    with Bed(args.nodes, None if args.rate == "none" else args.rate, rates) as bed:
        if args.everywhere:
            processes = [bed.popen(node, *args.command) for node in range(args.nodes)]
            code = max(process.wait() for process in processes)
        else:
            with workers(bed, "--nthreads", 1) as addresses:
                words = [
                    word for text in args.command for word in (addresses if text == "WORKERS" else [text])
                ]
                code = bed.popen(0, *words).wait()
        for node in range(args.nodes):
            link = bed.link_bytes(node)
            print(
                f"node {node}: {link.sent / 1e6:.3f} MB sent, {link.received / 1e6:.3f} MB received",
                file=sys.stderr,
            )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
