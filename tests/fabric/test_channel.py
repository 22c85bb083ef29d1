"""Connecting, listening, and messages before there is a fabric."""

from __future__ import annotations

import http.server
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from dllama.errors import (
    PeerLostError,
    PeerProtocolError,
    PeerTimeoutError,
    PeerUnreachableError,
    UsageError,
)
from dllama.fabric.addresses import format_address, own_hosts, peer_address
from dllama.fabric.channel import SocketChannel, connect_with_deadline, listen, listen_everywhere
from dllama.fabric.frames import MAGIC, PROTOCOL_VERSION

TIMEOUT_S = 20.0
Channels = tuple[SocketChannel, SocketChannel]


@pytest.fixture
def channels() -> Iterator[Channels]:
    """The root's end and the worker's end of one connection."""
    with listen("127.0.0.1", 0) as listener:
        calling = connect_with_deadline("127.0.0.1", listener.getsockname()[1], TIMEOUT_S)
        called, _ = listener.accept()
    with calling, called:
        yield (
            SocketChannel(calling, "10.0.0.2:9998", TIMEOUT_S, role="worker"),
            SocketChannel(called, "10.0.0.1:51234", TIMEOUT_S, role="root"),
        )


@pytest.mark.parametrize("payload", [[], [b""], [b"ab", np.arange(3), b"c"], [bytes(3_000_000)]])
def test_a_frame_arrives_as_sent(channels: Channels, payload: list[bytes]) -> None:
    root, worker = channels
    sending = threading.Thread(target=root.send_frame, args=(3, *payload))
    sending.start()
    assert worker.receive_frame(3_000_000) == (3, b"".join(bytes(part) for part in payload))
    sending.join()


def test_bytes_behind_a_frame(channels: Channels) -> None:
    root, worker = channels
    root.send_frame(1, b"hello")
    root.write_all(b"raw", np.zeros((2, 2), np.int16), b"")
    assert worker.receive_frame(5) == (1, b"hello")
    assert worker.read_exact(3) == b"raw"
    assert worker.read_exact(0) == b""
    array = np.ones((2, 2), np.int16)
    worker.read_into(array)
    assert not array.any()


def test_a_real_http_server_is_not_a_worker() -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        with connect_with_deadline("127.0.0.1", server.server_port, TIMEOUT_S) as connection:
            channel = SocketChannel(connection, "10.0.0.2:80", TIMEOUT_S, role="worker")
            channel.send_frame(1, b"hello")
            with pytest.raises(PeerProtocolError, match=r"10\.0\.0\.2:80 is not a dllama worker"):
                channel.receive_frame(100)
        server.shutdown()
        serving.join()


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "10.0.0.2:9998 is not a dllama worker: it sent b'HTTP/1.1 400"),
        (b"\x8b?", "is not a dllama worker"),
        (struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION + 1, 1, 0), "install the same release"),
        (struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION, 5, 1 << 40), "at most 100"),
    ],
)
def test_strangers_are_named_at_the_first_wrong_byte(channels: Channels, sent: bytes, says: str) -> None:
    root, worker = channels
    worker.write_all(sent)
    with pytest.raises(PeerProtocolError, match=re.escape(says)):
        root.receive_frame(100)


def test_a_browser_is_not_a_root(channels: Channels) -> None:
    root, worker = channels
    root.write_all(b"GET / HTTP/1.1\r\n")
    with pytest.raises(PeerProtocolError, match=r"10\.0\.0\.1:51234 is not a dllama root"):
        worker.receive_frame(100)


@pytest.mark.parametrize(
    "sent", [b"", MAGIC, struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION, 5, 10) + b"12345"]
)
def test_a_peer_that_goes_is_lost(channels: Channels, sent: bytes) -> None:
    root, worker = channels
    worker.write_all(sent)
    worker.connection.close()
    with pytest.raises(PeerLostError, match=r"10\.0\.0\.2:9998"):
        root.receive_frame(100)


def test_a_silent_peer_is_a_timeout(channels: Channels) -> None:
    root, _ = channels
    root.set_deadline(0.05)
    with pytest.raises(PeerTimeoutError, match=r"10\.0\.0\.2:9998 did not answer within 0\.05 s"):
        root.receive_frame(100)


def test_the_deadline_holds_however_slowly_bytes_drip(channels: Channels) -> None:
    root, worker = channels
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            worker.write_all(b".")

    dripping = threading.Thread(target=drip)
    dripping.start()
    started = time.monotonic()
    root.set_deadline(0.3)
    with pytest.raises(PeerTimeoutError):
        root.read_exact(100_000)
    stop.set()
    dripping.join()
    assert 0.3 <= time.monotonic() - started < 5


def test_a_peer_that_does_not_read_is_a_timeout(channels: Channels) -> None:
    root, _ = channels
    root.set_deadline(0.1)
    with pytest.raises(PeerTimeoutError):
        root.write_all(bytes(64 << 20))


def test_a_deadline_that_has_passed(channels: Channels) -> None:
    root, _ = channels
    root.set_deadline(0.0)
    with pytest.raises(PeerTimeoutError):
        root.write_all(b"x")


def test_nobody_listens() -> None:
    with socket.socket() as taken:  # bound, so that no one else takes the port, and not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(
            PeerUnreachableError, match=rf"127\.0\.0\.1:{port} for 0\.\d s \(connection refused\)"
        ):
            connect_with_deadline("127.0.0.1", port, 0.25)


def test_a_worker_that_starts_late_is_met() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        starting = threading.Timer(0.15, listener.listen)
        starting.start()
        connect_with_deadline("127.0.0.1", listener.getsockname()[1], TIMEOUT_S).close()
        starting.join()


def test_a_name_that_cannot_be() -> None:
    with pytest.raises(PeerUnreachableError, match=r"no address for bad\.\.name:9998"):
        connect_with_deadline("bad..name", 9998, 1.0)


def test_port_in_use() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use on 127.0.0.1"):
            listen("127.0.0.1", port)


def test_a_host_of_another_machine() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:0"):
        listen("192.0.2.1", 0)


def test_addresses() -> None:
    assert format_address("10.0.0.1", 9990) == "10.0.0.1:9990"
    assert format_address("fe80::1", 9990) == "[fe80::1]:9990"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this computer has no IPv6")
def test_one_port_for_both_kinds_of_addresses() -> None:
    """A caller is called by the address that it has, not by one of IPv6 that wraps it."""
    with listen_everywhere(0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with connect_with_deadline(host, port, TIMEOUT_S) as caller:
                called, address = listener.accept()
                called.close()
                assert peer_address(address) == format_address(host, caller.getsockname()[1])
        with pytest.raises(UsageError, match=f"port {port} is in use"):
            listen_everywhere(port)


def test_peers_by_their_addresses() -> None:
    assert peer_address(("10.0.0.1", 5)) == "10.0.0.1:5"
    assert peer_address(("::ffff:10.0.0.1", 5, 0, 0)) == "10.0.0.1:5"
    assert peer_address(("fd00::1", 5, 0, 0)) == "[fd00::1]:5"
    number, name = socket.if_nameindex()[0]
    assert peer_address(("fe80::1", 5, 0, number)) == f"[fe80::1%{name}]:5"
    assert peer_address(("fe80::1", 5, 0, 1 << 30)) == f"[fe80::1%{1 << 30}]:5"


def test_own_addresses_lead_here() -> None:
    for host in own_hosts():
        if "%" not in host:
            listen(host, 0).close()
