"""A worker: serves one root after another, and needs no files. Roots call its port, or belong to its MPI job."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable

from dllama.errors import DllamaError, PeerLostError, let_go_of_frames
from dllama.fabric import Job
from dllama.host.spare_memory import give_back_spare_memory
from dllama.kernels import Device
from dllama.node.door import Door
from dllama.node.messages import Kind, Refusal
from dllama.node.rank import NodeSettings
from dllama.node.root_link import CallingRoot, JobRoot, RootLink
from dllama.node.session import WorkerSession
from dllama.node.shortage import shortages_told

_log = logging.getLogger(__name__)


class Worker:
    """Owns the port and the cores of this node."""

    def __init__(
        self,
        listener: socket.socket,
        device: Device,
        settings: NodeSettings,
        on_event: Callable[[str], None],
    ) -> None:
        """Takes the listening socket over. `on_event` gets a line for people at each turn."""
        self._on_event = on_event
        self._session = WorkerSession(device, settings, on_event)
        self._door = Door(listener, self._session.welcome, on_event)

    def serve(self) -> None:
        """Serves roots until the process is told to end."""
        try:
            while True:
                self.serve_one()
        finally:
            self.close()

    def close(self) -> None:
        """Gives the port back."""
        self._door.close()

    def serve_one(self) -> None:
        """Serves the next root to its end, however it ends, and gives back all that its session took."""
        root = CallingRoot(self._door.next_root(), self._door)
        try:
            _serve_to_its_end(self._session, root, self._on_event)
        finally:
            self._door.release()


def serve_job(job: Job, device: Device, settings: NodeSettings, on_event: Callable[[str], None]) -> None:
    """Serves the root of an MPI job, one session after another, until it leaves."""
    session = WorkerSession(device, settings, on_event)
    with contextlib.suppress(PeerLostError):
        while True:
            root = JobRoot(job, lambda: (Kind.WELCOME, session.welcome().encode()))
            _serve_to_its_end(session, root, on_event)


def refuse_job(job: Job, reason: str) -> None:
    """What a node does that cannot serve: tells the root of its MPI job why, once that calls, until it leaves."""
    with contextlib.suppress(PeerLostError):
        while True:
            JobRoot(job, lambda: (Kind.REFUSED, Refusal(reason).encode())).close()


def _serve_to_its_end(session: WorkerSession, root: RootLink, on_event: Callable[[str], None]) -> None:
    on_event(f"serving {root.name}")
    try:
        with shortages_told():
            session.serve(root)
        on_event(f"{root.name} is done")
    except DllamaError as error:
        on_event(f"the session of {root.name} is gone: {error}")
        _log.debug("session ended", exc_info=error)
        let_go_of_frames(error)
    except Exception as error:  # our own mistake costs one session, not the worker
        on_event(f"the session of {root.name} is gone: the worker failed")
        _log.exception("session failed")
        let_go_of_frames(error)
    finally:
        root.close()
        give_back_spare_memory()  # the next root is told how much is free
