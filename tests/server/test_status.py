"""What the server says of itself to the page."""

from __future__ import annotations

from dllama.node import LITTLE_WAIT, WAITS_APART
from support.api_process import ApiProcess


def test_defaults_are_what_the_flags_say() -> None:
    with ApiProcess("--temperature", 0.3, "--topp", 0.5, "--topk", 7, "--seed", 12) as api:
        assert api.get("/api/defaults").json() == {
            "temperature": 0.3,
            "top_p": 0.5,
            "top_k": 7,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "max_tokens": None,
            "seed": 12,
        }


def test_the_margins_are_those_of_reports(api: ApiProcess) -> None:
    margins = api.get("/api/cluster").json()["margins"]
    assert margins == {"little_wait": LITTLE_WAIT, "waits_apart": WAITS_APART}
