"""A server that is told to end: answers under way say so, and the log has nothing to say."""

from __future__ import annotations

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from support.api_process import CHAT, ApiProcess, ask, error_of
from support.processes import wait_until

ENDLESS = ask("Tell me a story.", ignore_eos=True, n=16)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_answers_under_way_end_with_an_error(sent: signal.Signals, code: int) -> None:
    """The second signal takes the time to finish from them."""
    with ApiProcess() as api, ThreadPoolExecutor(2) as pool:
        stream = api.post(CHAT, {**ENDLESS, "stream": True}, stream=True)
        whole = pool.submit(api.post, CHAT, ENDLESS)
        embedding = pool.submit(api.post, "/v1/embeddings", {"input": ["a fox " * 300] * 200})
        wait_until(lambda: api.metrics()["requests_running"] + api.metrics()["requests_queued"] == 33)
        process = psutil.Process(api.pid)
        process.send_signal(sent)
        wait_until(lambda: not is_listening(api))
        process.send_signal(sent)
        for asked in (whole, embedding):
            assert error_of(asked.result(), 503)["code"] == "server_ending"
        *_, last = [line for line in stream.iter_lines() if line]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "server_ending"
        done = api.finish()
    assert done.code == code
    assert "Traceback" not in done.err
    assert "Cancelled" not in done.err
    assert len(re.findall(r" POST \S+ (?:200|503), .*: the server is ending\n", done.err)) == 3


def is_listening(api: ApiProcess) -> bool:
    try:
        return api.get("/health").ok
    except requests.ConnectionError:
        return False
