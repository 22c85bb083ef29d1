"""How the root meets its workers, and what is left when one of them cannot be met."""

from __future__ import annotations

import contextlib
import weakref

import pytest

from dllama.errors import PeerLostError
from dllama.node import Address
from dllama.node.crew import greet_crew
from support import fake_nodes
from support.owned import no_collector
from support.processes import worker_processes


def test_the_others_get_to_know_a_worker_by_its_number() -> None:
    """They may not know its name; people see the one that was given."""
    with worker_processes(1) as (worker,):
        name = worker.address.replace("127.0.0.1", "localhost")
        crew = greet_crew([Address.parse(name)], None, "abc")
        with contextlib.closing(crew):
            assert crew.addresses == ("", worker.address)
            assert crew.names == ("this node", name)


def failure(address: Address) -> weakref.ref[PeerLostError]:
    try:
        greet_crew([address], None, "abc")
    except PeerLostError as error:
        return weakref.ref(error)
    pytest.fail("a worker that closes the connection was greeted")


def test_a_failure_is_gone_when_it_has_been_handled() -> None:
    """It holds the frames that it passed, and with them the connections to all other workers."""
    with no_collector(), fake_nodes.server(fake_nodes.closes) as address:
        assert failure(Address.parse(address))() is None
