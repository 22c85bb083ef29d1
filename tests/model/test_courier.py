"""Transfers beside computing: begun in order, ended by their waits, with their errors, and no thread left behind."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref

import pytest

from dllama.model.courier import Courier
from dllama.model.trace import SpanName, Trace, Track

TIMEOUT_S = 20.0


def couriers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "courier"}


def test_what_is_posted_is_carried_in_order_while_the_caller_goes_on() -> None:
    trace, order, gate = Trace(), [], threading.Event()
    trace.begin()
    courier = Courier(TIMEOUT_S, trace)

    def first(timeout_s: float) -> None:
        assert gate.wait(timeout_s)
        order.append(1)

    courier.post(first, SpanName.INPUTS)
    courier.post(lambda timeout_s: order.append(timeout_s), SpanName.EXCHANGE)
    assert order == []
    gate.set()
    courier.wait()
    courier.wait()
    assert order == [1, TIMEOUT_S]
    assert trace.events["name"].tolist() == [SpanName.INPUTS, SpanName.EXCHANGE]
    assert set(trace.events["track"].tolist()) == {Track.COURIER}


def test_errors_come_with_the_wait_of_their_transfer() -> None:
    courier = Courier(TIMEOUT_S, Trace())

    def fails(timeout_s: float) -> None:
        raise ConnectionError("gone")

    courier.post(lambda timeout_s: None, SpanName.EXCHANGE)
    courier.post(fails, SpanName.EXCHANGE)
    courier.post(lambda timeout_s: None, SpanName.EXCHANGE)
    courier.wait()
    with pytest.raises(ConnectionError, match="gone"):
        courier.wait()
    courier.wait()
    with pytest.raises(ConnectionError, match="gone"):
        courier.carry(fails, SpanName.EXCHANGE)


def test_waiting_is_counted() -> None:
    courier = Courier(TIMEOUT_S, Trace())
    courier.carry(lambda timeout_s: time.sleep(0.02), SpanName.EXCHANGE)
    carried_s = courier.wait_s
    assert carried_s >= 0.02
    courier.post(lambda timeout_s: time.sleep(0.02), SpanName.EXCHANGE)
    assert courier.wait_s == carried_s
    courier.wait()
    assert courier.wait_s > carried_s


def test_the_thread_and_unread_errors_end_with_the_courier() -> None:
    before = couriers()
    courier = Courier(TIMEOUT_S, Trace())
    held = weakref.WeakSet[Trace]()

    def fails(timeout_s: float) -> None:
        of_the_frame = Trace()
        held.add(of_the_frame)
        raise ConnectionError("gone")

    gc.disable()
    try:
        courier.post(fails, SpanName.EXCHANGE)
        courier.post(fails, SpanName.EXCHANGE)
        with contextlib.suppress(ConnectionError):
            courier.wait()
        courier.close()
        assert couriers() == before
        assert len(held) == 0
    finally:
        gc.enable()
