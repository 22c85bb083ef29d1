"""A model that is lost is opened again, as often as it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dllama.errors import DllamaError, PeerLostError, PeerUnreachableError
from dllama.server.errors import ApiError
from dllama.server.keeper import ModelKeeper
from support.processes import TIMEOUT_S, wait_until


@dataclasses.dataclass
class FakeService:
    failure: DllamaError | None = None


@dataclasses.dataclass
class FakeModel:
    service: FakeService
    name: str = ""

    def nodes(self) -> Any:
        return [self.name, self.service.failure]


class Models:
    """`open` gives a new model, or raises what stands in `troubles`; counts what is open."""

    def __init__(self) -> None:
        self.troubles: list[Exception] = []
        self.n_open = self.n_opened = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        if self.troubles:
            raise self.troubles.pop(0)
        self.n_open += 1
        self.n_opened += 1
        try:
            yield FakeModel(FakeService(), f"model {self.n_opened}")
        finally:
            self.n_open -= 1


def has_model(keeper: ModelKeeper) -> bool:
    try:
        keeper.served()
    except ApiError:
        return False
    return True


def test_a_lost_node_is_a_pause() -> None:
    models, notes = Models(), list[str]()
    with ModelKeeper(models.open, notes.append, retry_s=0.01) as keeper:
        first = keeper.served()
        models.troubles = [
            PeerUnreachableError("nobody there"),
            PeerUnreachableError("nobody there"),
            OSError("no"),
            RuntimeError("can't start new thread"),
        ]
        first.service.failure = PeerLostError("lost worker 1")  # type: ignore[misc]
        with pytest.raises(ApiError, match="lost worker 1") as caught:
            keeper.served()
        assert caught.value.status == 503
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert keeper.stats() is None
        wait_until(lambda: has_model(keeper))
        assert keeper.served() is not first
        assert models.n_open == 1
        assert notes[1:3] == ["nobody there", "loading failed: no"]
        assert "no more threads" in notes[3]
        assert notes[4:] == ["the model is ready again"]
        assert "lost worker 1" in notes[0]
    assert models.n_open == 0


def test_the_nodes_of_a_lost_model_are_kept() -> None:
    """As they were when it was lost, until there are others."""
    models = Models()
    with ModelKeeper(models.open, lambda line: None, retry_s=0.01) as keeper:
        assert keeper.nodes() == ["model 1", None]
        models.troubles = [PeerUnreachableError("nobody there")] * 1000
        keeper.served().service.failure = failure = PeerLostError("lost worker 1")  # type: ignore[misc]
        wait_until(lambda: models.n_open == 0)
        assert not has_model(keeper)
        assert keeper.nodes() == ["model 1", failure]
        models.troubles.clear()
        wait_until(lambda: has_model(keeper))
        assert keeper.nodes() == ["model 2", None]


def test_a_model_that_is_not_opened_again() -> None:
    models, notes, given_up = Models(), list[str](), threading.Event()
    with ModelKeeper(models.open, notes.append, on_give_up=given_up.set) as keeper:
        keeper.served().service.failure = failure = PeerLostError("lost rank 1")  # type: ignore[misc]
        assert given_up.wait(TIMEOUT_S)
        assert keeper.failure is failure
        assert not has_model(keeper)
    assert (models.n_open, notes) == (0, [])


def test_a_model_that_cannot_be_opened_at_first() -> None:
    models = Models()
    models.troubles = [PeerUnreachableError("nobody there")]
    with pytest.raises(PeerUnreachableError), ModelKeeper(models.open, print):
        pass
    assert models.n_open == 0
