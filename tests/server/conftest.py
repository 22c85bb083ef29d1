"""One server that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from support.api_process import ApiProcess


@pytest.fixture(scope="session")
def api() -> Iterator[ApiProcess]:
    with ApiProcess() as process:
        yield process


@pytest.fixture(scope="session")
def client(api: ApiProcess) -> Iterator[openai.OpenAI]:
    with api.openai() as client:
        yield client
