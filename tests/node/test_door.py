"""A worker's door lets others in whatever happens to one of those who call."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import pytest

from dllama.errors import PeerError, PeerLostError
from dllama.fabric import SocketChannel, connect_with_deadline, listen
from dllama.node import Address, door
from dllama.node.door import Door
from dllama.node.greeting import call
from dllama.node.messages import MAX_CONTROL_BYTES, Hello, Kind, Refusal, Role, Welcome

TIMEOUT_S = 20.0
ROOT = Hello(Role.ROOT, "abc", 0)
WELCOME = Welcome(machine="here", available_bytes=1, n_threads=1, isa="scalar", kv_on_disk=False)


@contextlib.contextmanager
def opened(welcome: Callable[[], Welcome]) -> Iterator[tuple[Door, Address]]:
    listener = listen("127.0.0.1", 0)
    address = Address("127.0.0.1", listener.getsockname()[1])
    with contextlib.closing(Door(listener, welcome, lambda line: None)) as own:
        yield own, address


def greet(address: Address, hello: bytes, stack: contextlib.ExitStack) -> SocketChannel:
    connection = stack.enter_context(connect_with_deadline(address.host, address.port, TIMEOUT_S))
    channel = SocketChannel(connection, "worker", TIMEOUT_S)
    channel.send_frame(Kind.HELLO, hello)
    return channel


def test_a_mistake_of_ours_makes_no_node_deaf() -> None:
    mistakes = [RuntimeError("a mistake")]

    def welcome() -> Welcome:
        if mistakes:
            raise mistakes.pop()
        return WELCOME

    with opened(welcome) as (own, address):
        with pytest.raises(PeerLostError):
            call(address, ROOT)
        channel, _ = call(address, ROOT)
        own.next_root().connection.close()
        channel.connection.close()


def test_few_roots_wait_for_the_one_that_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others hear at once that the node is busy, and hold no descriptor of it."""
    monkeypatch.setattr(door, "HANDOVER_S", 10 * TIMEOUT_S)
    with contextlib.ExitStack() as stack:
        own, address = stack.enter_context(opened(lambda: WELCOME))
        served, _ = call(address, ROOT)
        first, *_ = [greet(address, ROOT.encode(), stack) for _ in range(8)]
        late = greet(address, ROOT.encode(), stack)
        assert late.receive_frame(MAX_CONTROL_BYTES)[0] == Kind.BUSY
        served.connection.close()
        own.next_root().connection.close()
        own.release()
        assert first.receive_frame(MAX_CONTROL_BYTES)[0] == Kind.WELCOME
        own.next_root().connection.close()


@pytest.mark.parametrize(
    ("greeting", "says"),
    [
        ({"role": "guest", "session": "abc", "rank": 0}, "'guest' is not a valid Role"),
        ({"role": "root", "session": "abc"}, "missing 1 required positional argument: 'rank'"),
    ],
)
def test_a_greeting_that_is_none_is_answered(greeting: dict[str, object], says: str) -> None:
    with contextlib.ExitStack() as stack:
        _, address = stack.enter_context(opened(lambda: WELCOME))
        channel = greet(address, json.dumps(greeting).encode(), stack)
        kind, payload = channel.receive_frame(MAX_CONTROL_BYTES)
        assert kind == Kind.REFUSED
        assert says in Refusal.decode(payload, "worker").reason
        with pytest.raises(PeerError, match="closed the connection"):
            channel.receive_frame(MAX_CONTROL_BYTES)
