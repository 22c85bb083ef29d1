"""Requests get a place in the queue before any work is done for them, and give it back when that comes to nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from dllama.engine import Ticket
from dllama.server.api import Api
from dllama.server.served import ServedModel

P = ParamSpec("P")
T = TypeVar("T")


async def prepared(
    api: Api,
    request: Request,
    served: ServedModel,
    n_places: int,
    prepare: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[list[Ticket], T]:
    """Places for `n_places` texts, and what `prepare`, which runs in a thread, makes of the request.

    The places are the caller's, who cancels them. Raises, with no place taken: QueueFullError before anything is done,
    what `prepare` raises, and ClientDisconnect when the client goes first.
    """
    tickets = served.service.reserve(n_places)
    with kept(tickets):
        return tickets, await api.in_thread(request, prepare, *args, **kwargs)


@contextlib.contextmanager
def kept(places: Sequence[Ticket]) -> Iterator[None]:
    """Gives the places back if what is done within fails."""
    try:
        yield
    except BaseException:
        for place in places:
            place.cancel()
        raise
