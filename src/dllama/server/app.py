"""The ASGI application: routes from the table of endpoints, the page, keys, errors."""

from __future__ import annotations

import importlib.resources
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dllama.errors import DllamaError
from dllama.server.api import Api
from dllama.server.bodies import BodyReader
from dllama.server.endpoints import ENDPOINTS, Endpoint
from dllama.server.errors import ApiError, api_error
from dllama.server.hosts import HostCheck
from dllama.server.keys import check_key
from dllama.server.metrics import Metrics
from dllama.server.openapi import openapi_document
from dllama.server.request_fields import ModelRequest
from dllama.server.request_log import ID_HEADER, RequestLog, note_error

_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(api: Api) -> ASGIApp:
    cors = Middleware(
        CORSMiddleware,
        allow_origins=api.settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "Warning", ID_HEADER],
    )
    bodies = BodyReader(api.settings.max_body_bytes, api.settings.body_timeout_s)
    app = Starlette(
        routes=[*(_route(api, bodies, endpoint) for endpoint in ENDPOINTS), _schema(api), *_page()],
        middleware=[
            Middleware(HostCheck, api.settings.host_names),
            *([cors] if api.settings.cors_origins else []),
        ],
        exception_handlers={
            DllamaError: _on_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_fault,
        },
    )
    return RequestLog(app)  # around Starlette's own answer to a fault, too


def _route(api: Api, bodies: BodyReader, endpoint: Endpoint) -> Route:
    async def answer(request: Request) -> Response:
        if not endpoint.is_public:
            check_key(request, api.settings.api_keys)
        body = None if endpoint.request is None else await bodies.read(request, endpoint.request)
        response = await endpoint.handle(api, request, body)
        if isinstance(body, ModelRequest) and (warning := api.warning(body.model)):
            response.headers["Warning"] = warning
        return response

    counted = Middleware(_Counted, endpoint.path, api.metrics)
    return Route(endpoint.path, answer, methods=[endpoint.method], middleware=[counted])


class _Counted:
    """ASGI middleware of one endpoint: counts its answers, once they have ended, by their status."""

    def __init__(self, app: ASGIApp, path: str, metrics: Metrics) -> None:
        self._app, self._path, self._metrics = app, path, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.answered(self._path, status, time.perf_counter() - start)


def _schema(api: Api) -> Route:
    document = openapi_document(ENDPOINTS, with_keys=bool(api.settings.api_keys))

    async def answer(request: Request) -> Response:
        return JSONResponse(document)

    return Route("/openapi.json", answer, methods=["GET"])


def _page() -> list[Route]:
    """A route for each file of the page; "/" is its index."""
    folder = Path(str(importlib.resources.files("dllama.server") / "web"))
    routes = [_file_route("/", folder / "index.html"), _file_route("/favicon.ico", folder / "favicon.svg")]
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        routes.append(_file_route(f"/{file.relative_to(folder).as_posix()}", file))
    return routes


def _file_route(path: str, file: Path) -> Route:
    async def answer(request: Request) -> Response:
        return FileResponse(file, headers=_PAGE_HEADERS)

    return Route(path, answer, methods=["GET"])


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DllamaError)
    note_error(request.scope, error)
    return api_error(error).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    message = {404: f"there is no {what} here; /openapi.json lists what there is"}.get(
        error.status_code, f"{what}: {error.detail}"
    )
    return ApiError(message, status=error.status_code, headers=error.headers).response()


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_fault(request: Request, error: Exception) -> Response:
    """Our own mistake; Starlette raises it again for the log."""
    return ApiError("an error inside the server; its log says more", status=500).response()
