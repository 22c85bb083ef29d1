"""Requests made up from /openapi.json: every answer is one that the schema announces, and none is a 5xx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from dllama.server.endpoints import ENDPOINTS, Endpoint
from support.api_process import MODEL, ApiProcess

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]

SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def described(api: ApiProcess) -> Any:
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.name)
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_made_up_requests(described: Any, endpoint: Endpoint, mode: GenerationMode) -> None:
    """Bodies that the schema allows ask for the model that there is, and for few tokens."""
    if mode is GenerationMode.NEGATIVE and endpoint.request is None:
        return  # nothing of it can be wrong
    operation = described[endpoint.path][endpoint.method]
    is_allowed = _body_check(described.raw_schema, endpoint)

    @SETTINGS
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = MODEL
            if "messages" in case.body or "prompt" in case.body:
                case.body["max_tokens"] = 3
                case.body.pop("max_completion_tokens", None)
        checks = [
            check for check in CHECKS if check is not negative_data_rejection or not is_allowed(case.body)
        ]
        case.call_and_validate(checks=checks)

    check()


def _body_check(document: dict[str, Any], endpoint: Endpoint) -> Callable[[Any], bool]:
    """Whether a body is one that the document allows: what was made to break one of several forms may have another."""
    if endpoint.request is None:
        return lambda body: False
    operation = document["paths"][endpoint.path][endpoint.method.lower()]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]})

    def is_allowed(body: Any) -> bool:
        try:
            return bool(validator.is_valid(body))
        except ValueError:  # no JSON at all
            return False

    return is_allowed
