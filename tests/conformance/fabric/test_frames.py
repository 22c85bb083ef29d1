from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from dllama.errors import PeerLostError, PeerProtocolError
from dllama.fabric.frames import MAGIC, PROTOCOL_VERSION, receive_frame, send_frame

TIMEOUT_S = 20.0


def test_header_on_the_wire(connect):
    root, worker = connect(2)
    send_frame(root, [1], 7, b"abc", timeout_s=TIMEOUT_S)
    header, payload = bytearray(16), bytearray(3)
    worker.exchange([], [(0, header), (0, payload)], TIMEOUT_S)
    assert header == b"\x8bDL\n" + bytes([4, 0, 7, 0, 3, 0, 0, 0, 0, 0, 0, 0])
    assert payload == b"abc"


@pytest.mark.parametrize("payload", [[], [b""], [b"abc"], [b"ab", b"", np.arange(5)], [bytes(1 << 20)]])
def test_a_frame_arrives_as_sent(connect, on_ranks, payload):
    def work(fabric):
        if fabric.rank == 0:
            send_frame(fabric, [1, 2], 41, *payload, timeout_s=TIMEOUT_S)
            return None
        return receive_frame(fabric, 0, 1 << 20, TIMEOUT_S)

    expected = b"".join(bytes(part) for part in payload)
    assert on_ranks(connect(3), work) == [None, (41, expected), (41, expected)]


def test_frames_and_buffers_alternate(connect, on_ranks):
    def work(fabric):
        buffer = bytearray(9)
        for number in range(20):
            if fabric.rank == 0:
                send_frame(fabric, [1], number, bytes(number), timeout_s=TIMEOUT_S)
                fabric.exchange([(1, b"raw bytes")], [], TIMEOUT_S)
            else:
                assert receive_frame(fabric, 0, 100, TIMEOUT_S) == (number, bytes(number))
                fabric.exchange([], [(0, buffer)], TIMEOUT_S)
                assert buffer == b"raw bytes"

    on_ranks(connect(2), work)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"HTTP/1.1 400 Bad", "is not a dllama node: it sent b'HTTP/1.1 400 Bad'"),
        (bytes(16), "is not a dllama node"),
        (
            struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION + 1, 1, 0),
            f"protocol version {PROTOCOL_VERSION + 1}",
        ),
        (struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION, 5, 101), "kind 5 with 101 bytes where at most 100"),
        (struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION, 5, 2**64 - 1), "18446744073709551615 bytes"),
    ],
)
def test_garbage_is_a_protocol_error_that_names_the_peer(connect, sent, says):
    root, worker = connect(2)
    worker.exchange([(0, sent)], [], TIMEOUT_S)
    with pytest.raises(PeerProtocolError, match=re.escape(says)) as caught:
        receive_frame(root, 1, 100, TIMEOUT_S)
    assert f"{root.peer_name(1)} (rank 1)" in str(caught.value)


def test_random_bytes_are_never_taken_for_a_frame(connect):
    root, worker = connect(2)
    random = np.random.default_rng(5)
    for _ in range(200):
        worker.exchange([(0, random.integers(0, 256, 16, np.uint8))], [], TIMEOUT_S)
        with pytest.raises(PeerProtocolError):
            receive_frame(root, 1, 1 << 62, TIMEOUT_S)


def test_a_peer_that_goes_within_a_frame(connect):
    root, worker = connect(2)
    worker.exchange([(0, struct.pack("<4sHHQ", MAGIC, PROTOCOL_VERSION, 5, 90))], [], TIMEOUT_S)
    worker.close()
    with pytest.raises(PeerLostError, match="90 bytes from it"):
        receive_frame(root, 1, 100, TIMEOUT_S)
