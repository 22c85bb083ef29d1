"""From the engine's thread to the event loop: a request that is answered once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from dllama.errors import DllamaError

T = TypeVar("T")


async def one_answer(ask: Callable[[Callable[[T | DllamaError], None]], object]) -> T:
    """What `ask` has its argument called with, from whatever thread; an error is raised."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | DllamaError) -> None:
        if done.done():
            return
        if isinstance(result, DllamaError):
            done.set_exception(result)
        else:
            done.set_result(result)

    def on_done(result: T | DllamaError) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: so has whoever asked
            loop.call_soon_threadsafe(settle, result)

    ask(on_done)
    return await done
