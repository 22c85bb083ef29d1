"""Rank 1 of two as a process of its own: `peer_process.py PORT SCENARIO`."""

from __future__ import annotations

import os
import signal
import socket
import sys

from dllama.fabric.tcp import TcpFabric, TcpPeer

TIMEOUT_S = 20.0


def main() -> None:
    port, scenario = int(sys.argv[1]), sys.argv[2]
    connection = socket.create_connection(("127.0.0.1", port))
    fabric = TcpFabric(1, {0: TcpPeer(connection, "root")})
    if scenario == "dies within":
        fabric.exchange([(0, bytes(1000))], [], TIMEOUT_S)
    elif scenario == "dies after":
        fabric.exchange([(0, bytes(4352))], [(0, bytearray(4352))], TIMEOUT_S)
    elif scenario == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif scenario == "echoes":
        buffer = bytearray(4352)
        while True:
            fabric.exchange([(0, buffer)], [(0, buffer)], TIMEOUT_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
