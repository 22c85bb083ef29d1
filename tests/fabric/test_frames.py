"""What a received message costs."""

from __future__ import annotations

import threading
import tracemalloc

from dllama.fabric import local_fabrics, receive_frame, send_frame

TIMEOUT_S = 20.0


def test_a_received_frame_is_in_memory_once() -> None:
    """Plans of memory count the largest message so."""
    root, worker = local_fabrics(2)
    sent = bytes(8 << 20)
    sender = threading.Thread(target=send_frame, args=(root, [1], 1, sent), kwargs={"timeout_s": TIMEOUT_S})
    tracemalloc.start()
    try:
        sender.start()
        received = receive_frame(worker, 0, len(sent), TIMEOUT_S)
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        sender.join()
    assert received == (1, sent)
    assert most_bytes < 1.5 * len(sent)
