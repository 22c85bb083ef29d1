"""A worker: serves one root after another, computes its shards of their models, and needs no files."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable

from dllama.errors import DllamaError, PeerError, PeerProtocolError
from dllama.fabric import SocketChannel, TcpFabric, TcpPeer, gather, receive_frame, send_frame
from dllama.kernels import Compute
from dllama.model import CacheStorage, Transformer
from dllama.node.door import Door
from dllama.node.greeting import GREETING_TIMEOUT_S, Address, call, raise_refusal
from dllama.node.loading import receive_weights
from dllama.node.machine import available_memory_bytes, machine_id
from dllama.node.memory import NodeMemory, check_memory, memory_need
from dllama.node.messages import (
    MAX_CONTROL_BYTES,
    Hello,
    Kind,
    Refusal,
    Role,
    SessionPlan,
    Welcome,
)
from dllama.node.rank import NodeSettings, RankMemory
from dllama.node.step_message import decode_step, encode_candidates, max_step_bytes

_log = logging.getLogger(__name__)


class Worker:
    """Owns the port and the cores of this node."""

    def __init__(
        self,
        listener: socket.socket,
        compute: Compute,
        settings: NodeSettings,
        on_event: Callable[[str], None],
    ) -> None:
        """Takes the listening socket over. `on_event` gets a line for people at each turn."""
        self._compute = compute
        self._settings = settings
        self._on_event = on_event
        self._door = Door(listener, self._welcome)

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
        channel = self._door.next_root()
        self._on_event(f"serving {channel.name}")
        try:
            self._serve(channel)
            self._on_event(f"{channel.name} is done")
        except DllamaError as error:
            self._on_event(f"{channel.name} is gone: {error}")
            _log.debug("session ended", exc_info=error)
        except Exception:  # our own mistake costs one session, not the worker
            self._on_event(f"{channel.name} is gone: the worker failed")
            _log.exception("session failed")
        finally:
            channel.connection.close()
            self._door.release()

    def _serve(self, channel: SocketChannel) -> None:
        channel.set_deadline(GREETING_TIMEOUT_S)
        kind, payload = channel.receive_frame(MAX_CONTROL_BYTES)
        if kind != Kind.PLAN:
            raise PeerProtocolError(f"{channel.name} sent a message of kind {kind} in place of a plan")
        plan = SessionPlan.decode(payload, channel.name)
        with contextlib.ExitStack() as stack:
            try:
                self._check_memory(plan)
                memory = stack.enter_context(
                    contextlib.closing(RankMemory(self._compute, plan, self._settings))
                )
                fabric = stack.enter_context(contextlib.closing(self._join(channel, plan)))
            except DllamaError as error:
                channel.send_frame(Kind.FAILED, Refusal(str(error)).encode())
                raise
            send_frame(fabric, [0], Kind.READY, timeout_s=plan.limits.timeout_s)
            self._load(fabric, memory, plan)
            self._on_event(f"loaded rank {plan.rank} of {plan.shards.n_ranks}: {plan.config.family} model")
            self._steps(fabric, memory, plan)

    def _check_memory(self, plan: SessionPlan) -> None:
        """The root has looked already, but it is this computer that would run out."""
        welcome = self._welcome()
        need = memory_need(plan.config, plan.shards, plan.rank, plan.cache, plan.limits, welcome.kv_on_disk)
        check_memory([NodeMemory("this worker", welcome.machine, welcome.available_bytes, need)])

    def _join(self, root: SocketChannel, plan: SessionPlan) -> TcpFabric:
        """The mesh: this worker calls those of lower rank and is called by those of higher rank."""
        peers = {0: TcpPeer(root.connection, f"root {root.name}")}
        hello = Hello(Role.WORKER, plan.session, plan.rank)
        for rank in range(1, plan.rank):
            channel, _ = call(Address.parse(plan.addresses[rank]), hello)
            peers[rank] = TcpPeer(channel.connection, f"worker {channel.name}")
        while len(peers) < plan.shards.n_ranks - 1:
            rank, channel = self._door.next_peer(GREETING_TIMEOUT_S)
            if rank in peers or not plan.rank < rank < plan.shards.n_ranks:
                raise PeerProtocolError(f"{channel.name} says that it is rank {rank}, which is impossible")
            peers[rank] = TcpPeer(channel.connection, f"worker {plan.addresses[rank]}")
        return TcpFabric(plan.rank, peers)

    def _load(self, fabric: TcpFabric, memory: RankMemory, plan: SessionPlan) -> None:
        timeout_s = plan.limits.timeout_s
        try:
            receive_weights(plan.config, plan.shards, fabric, memory.weights, timeout_s)
        except PeerError:
            raise
        except DllamaError as error:
            send_frame(fabric, [0], Kind.FAILED, Refusal(str(error)).encode(), timeout_s=timeout_s)
            raise
        send_frame(fabric, [0], Kind.LOADED, timeout_s=timeout_s)

    def _steps(self, fabric: TcpFabric, memory: RankMemory, plan: SessionPlan) -> None:
        """Computes what the root asks for until it ends the session. Between steps it waits without a deadline:
        keepalive probes tell whether the root's computer is still there."""
        transformer = memory.transformer(fabric)
        limit = max(MAX_CONTROL_BYTES, max_step_bytes(plan.config, plan.limits, plan.cache))
        while True:
            kind, payload = receive_frame(fabric, 0, limit, None)
            if kind == Kind.STEP:
                self._step(fabric, transformer, plan, payload)
            elif kind == Kind.LOGITS:
                gather(fabric, transformer.logits, [], 0, plan.limits.timeout_s)
            elif kind == Kind.STATUS:
                send_frame(
                    fabric, [0], Kind.STATUS, memory.status().encode(), timeout_s=plan.limits.timeout_s
                )
            elif kind == Kind.END:
                return
            else:
                raise_refusal(kind, payload, fabric.peer_name(0))

    def _step(self, fabric: TcpFabric, transformer: Transformer, plan: SessionPlan, payload: bytes) -> None:
        batch, inputs = decode_step(payload, plan.config, plan.limits, plan.cache, fabric.peer_name(0))
        candidates = transformer.forward(batch, inputs)
        gather(fabric, encode_candidates(candidates), [], 0, plan.limits.timeout_s)

    def _welcome(self) -> Welcome:
        return Welcome(
            machine=machine_id(),
            available_bytes=available_memory_bytes(),
            n_threads=self._compute.n_threads,
            isa=self._compute.isa,
            kv_on_disk=self._settings.kv_storage is CacheStorage.DISK,
        )
