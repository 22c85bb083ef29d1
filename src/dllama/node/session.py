"""What a worker does for one root: it takes a plan, loads its shards, and computes steps until the root ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from dllama.errors import DllamaError, PeerError, PeerProtocolError
from dllama.fabric import Fabric, gather, receive_frame, send_frame
from dllama.kernels import Device
from dllama.model import VOCABULARY, CacheStorage, ReducePlan, Transformer
from dllama.node.greeting import raise_refusal
from dllama.node.input_rows import step_inputs
from dllama.node.loading import receive_weights
from dllama.node.machine import available_memory_bytes, machine_id, peak_rss_bytes
from dllama.node.memory import check_memory, node_memory
from dllama.node.messages import MAX_CONTROL_BYTES, Kind, PeakMemory, Refusal, SessionPlan, Welcome
from dllama.node.probe import serve_probe
from dllama.node.rank import NodeSettings, RankMemory
from dllama.node.reduce_agreement import learn_reduce
from dllama.node.root_link import RootLink
from dllama.node.shortage import shortages_told
from dllama.node.step_message import decode_step, encode_answer, max_step_bytes
from dllama.node.timing import StepTimer
from dllama.node.tracing import answer_clock, answer_trace


class WorkerSession:
    """The cores and the memory of this node, at the service of one root after another."""

    def __init__(self, device: Device, settings: NodeSettings, on_event: Callable[[str], None]) -> None:
        """`on_event` gets a line for people at each turn."""
        self._device = device
        self._settings = settings
        self._on_event = on_event

    def welcome(self) -> Welcome:
        """What this node has at the moment."""
        return Welcome(
            machine=machine_id(),
            available_bytes=available_memory_bytes(),
            n_threads=self._device.n_threads,
            isa=self._device.isa,
            kv_on_disk=self._settings.kv_storage is CacheStorage.DISK,
        )

    def serve(self, root: RootLink) -> None:
        """Serves the root to its end, and gives back all that its session took. Raises DllamaError."""
        kind, payload = root.receive_orders()
        if kind == Kind.PROBE:
            serve_probe(root, payload)
            return
        if kind != Kind.PLAN:
            raise PeerProtocolError(f"{root.name} sent a message of kind {kind} in place of a plan")
        plan = SessionPlan.decode(payload, root.name)
        with contextlib.ExitStack() as stack:
            try:
                with shortages_told():
                    self._check_memory(plan)
                    memory = stack.enter_context(
                        contextlib.closing(RankMemory(self._device, plan, self._settings))
                    )
                    fabric = root.join(plan.session, plan.rank, plan.addresses, plan.peer_timeout_s)
                    stack.enter_context(contextlib.closing(fabric))
            except DllamaError as error:
                root.refuse(str(error))
                raise
            send_frame(fabric, [0], Kind.READY, timeout_s=plan.limits.timeout_s)
            reduce_plan = learn_reduce(fabric, plan.limits.timeout_s)
            transformer = self._load(fabric, memory, plan, reduce_plan)
            self._on_event(f"loaded rank {plan.rank} of {plan.shards.n_ranks}: {plan.config.family} model")
            self._steps(fabric, transformer, plan)

    def _check_memory(self, plan: SessionPlan) -> None:
        """The root has looked already, but it is this computer that would run out."""
        check_memory([node_memory("this worker", self.welcome(), plan)])

    def _load(
        self, fabric: Fabric, memory: RankMemory, plan: SessionPlan, reduce_plan: ReducePlan
    ) -> Transformer:
        timeout_s = plan.limits.timeout_s
        try:
            with shortages_told():
                receive_weights(plan.model, plan.shards, fabric, memory.weights, timeout_s)
                transformer = memory.transformer(fabric, reduce_plan)
        except PeerError:
            raise
        except DllamaError as error:
            send_frame(fabric, [0], Kind.FAILED, Refusal(str(error)).encode(), timeout_s=timeout_s)
            raise
        send_frame(fabric, [0], Kind.LOADED, timeout_s=timeout_s)
        return transformer

    def _steps(self, fabric: Fabric, transformer: Transformer, plan: SessionPlan) -> None:
        """Computes what the root asks for until it ends the session. Between steps it waits without a deadline: the
        heartbeat tells whether the root is still there."""
        timer = StepTimer(fabric, transformer)
        limit = max(
            MAX_CONTROL_BYTES,
            max_step_bytes(plan.config, plan.limits, plan.cache, plan.shards.ranks[plan.rank][VOCABULARY]),
        )
        while True:
            kind, payload = receive_frame(fabric, 0, limit, None)
            if kind == Kind.STEP:
                timer.start()
                self._step(fabric, transformer, timer, plan, payload)
            elif kind == Kind.LOGITS:
                gather(fabric, transformer.logits, [], 0, plan.limits.timeout_s)
            elif kind == Kind.CLOCK:
                answer_clock(fabric, transformer.trace, plan.limits.timeout_s)
            elif kind == Kind.TRACE:
                answer_trace(fabric, transformer.trace, plan.limits.timeout_s)
            elif kind == Kind.STATUS:
                peak = PeakMemory(peak_rss_bytes()).encode()
                send_frame(fabric, [0], Kind.STATUS, peak, timeout_s=plan.limits.timeout_s)
            elif kind == Kind.END:
                return
            else:
                raise_refusal(kind, payload, fabric.peer_name(0))

    def _step(
        self,
        fabric: Fabric,
        transformer: Transformer,
        timer: StepTimer,
        plan: SessionPlan,
        payload: bytes | bytearray,
    ) -> None:
        batch, inputs = decode_step(
            payload,
            plan.config,
            plan.limits,
            plan.cache,
            plan.shards.ranks[plan.rank][VOCABULARY],
            fabric.peer_name(0),
        )
        candidates = transformer.forward(batch, step_inputs(inputs, fabric))
        gather(fabric, encode_answer(timer.stop(), candidates), [], 0, plan.limits.timeout_s)
