"""Keeps a model ready: opens it, and opens it again when a node was lost."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from dllama.engine import EngineStats
from dllama.errors import DllamaError, Failure, let_go_of_frames
from dllama.node import NodeInfo
from dllama.node.shortage import shortages_told
from dllama.server.errors import ApiError
from dllama.server.served import ServedModel

_log = logging.getLogger(__name__)

_LOOK_S = 0.5
"""How often one looks whether the engine still runs while nobody asks."""

_RETRY_S = 2.0
"""Between two attempts to open a model again; answers in between say when to come back."""

_LEAVE_S = 5.0
"""How long an attempt under way may hold up the end."""


class ModelKeeper:
    """`served` is the model as long as there is one. Use it as a context manager."""

    def __init__(
        self,
        open_model: Callable[[], AbstractContextManager[ServedModel]],
        on_note: Callable[[str], None],
        *,
        on_give_up: Callable[[], None] | None = None,
        retry_s: float = _RETRY_S,
    ) -> None:
        """`open_model` loads it onto all nodes and, left, lets go of them; `on_note` gets lines for people.

        With `on_give_up` a model that was lost is not opened again: it is called, and `failure` says why.
        """
        self._open_model = open_model
        self._on_note = on_note
        self._on_give_up = on_give_up
        self._retry_s = retry_s
        self._stack = contextlib.ExitStack()
        self._model: ServedModel | None = None
        self._failure: Failure[DllamaError] | None = None
        self._last_nodes: Sequence[NodeInfo] = ()
        self._look = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def served(self) -> ServedModel:
        """Raises ApiError 503 with the reason while there is none."""
        model = self._model
        failure = model.service.failure if model else self._failure
        if failure is not None:
            self._look.set()
            raise ApiError(
                f"the model is being loaded again: {failure}",
                status=503,
                code="model_not_ready",
                headers={"Retry-After": str(max(1, round(self._retry_s)))},
            )
        assert model is not None
        return model

    def nodes(self) -> Sequence[NodeInfo]:
        """The model's nodes; while there is no model, the nodes as they were when it was lost, and which were lost."""
        model = self._model
        return model.nodes() if model else self._last_nodes

    @property
    def failure(self) -> Failure[DllamaError] | None:
        """Why there is no model now."""
        return self._failure if self._model is None else None

    def stats(self) -> EngineStats | None:
        model = self._model
        return model.service.stats() if model and not model.service.failure else None

    def __enter__(self) -> ModelKeeper:
        """Opens the model for the first time. Raises what `open_model` raises."""
        self._model = self._stack.enter_context(self._open_model())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        self._look.set()
        self._thread.join(_LEAVE_S)
        if not self._thread.is_alive():
            self._stack.close()

    def _keep(self) -> None:
        while not self._is_closing:
            self._look.wait(_LOOK_S if self._model else self._retry_s)
            self._look.clear()
            if self._is_closing:
                return
            if self._model and self._model.service.failure:
                self._let_go(self._model.service.failure)
                if self._on_give_up:
                    self._on_give_up()
                    return
            if self._model is None:
                self._try_to_open()

    def _let_go(self, failure: Failure[DllamaError]) -> None:
        if not self._on_give_up:
            self._on_note(f"{failure}; trying to load the model again every {self._retry_s:.0f} s")
        if self._model:
            self._last_nodes = self._model.nodes()
        self._failure, self._model = failure, None
        try:
            self._stack.close()
        except Exception:
            _log.exception("the model that failed could not be closed")

    def _try_to_open(self) -> None:
        try:
            with shortages_told():
                self._model = self._stack.enter_context(self._open_model())
        except (DllamaError, OSError, MemoryError) as error:
            failure = Failure.of(
                error if isinstance(error, DllamaError) else DllamaError(f"loading failed: {error}")
            )
            let_go_of_frames(error)
            if str(failure) != str(self._failure):
                self._on_note(str(failure))
            self._failure = failure
        else:
            self._on_note("the model is ready again")
