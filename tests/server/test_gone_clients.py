"""What was asked by somebody who has gone is not computed."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from dllama.server.api import Api
from dllama.server.metrics import Metrics
from dllama.server.served import ServedModel, ServerSettings
from support.processes import TIMEOUT_S


def nothing() -> ServedModel:
    raise AssertionError("nobody asks for the model")


def test_work_of_a_client_that_went_away_in_the_queue_never_begins() -> None:
    """Two renderings of a minute each, whose clients had gone, held up everybody."""
    done: list[str] = []
    may_end = threading.Event()

    def work(name: str) -> str:
        may_end.wait(TIMEOUT_S)
        done.append(name)
        return name

    async def run() -> None:
        goes, stays = asyncio.Event(), asyncio.Event()
        with ThreadPoolExecutor(1) as pool:
            api = Api(
                settings=ServerSettings(model_name="demo"),
                served=nothing,
                metrics=Metrics(lambda: None),
                clock=lambda: 0.0,
                started=0.0,
                nodes=list,
                pool=pool,
            )
            first = asyncio.ensure_future(api.in_thread(request(stays), work, "first"))
            gone = asyncio.ensure_future(api.in_thread(request(goes), work, "gone"))
            last = asyncio.ensure_future(api.in_thread(request(stays), work, "last"))
            await asyncio.sleep(0)
            goes.set()
            with pytest.raises(ClientDisconnect):
                await gone
            may_end.set()
            assert [await first, await last] == ["first", "last"]

    asyncio.run(run())
    assert done == ["first", "last"]


def request(is_gone: asyncio.Event) -> Request:
    async def receive() -> dict[str, Any]:
        await is_gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)
