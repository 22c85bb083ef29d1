"""What `dllama api` runs: a model on all nodes, the engine, the HTTP server."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from dllama.checkpoint import read_suggested_sampling
from dllama.cli.logs import announce
from dllama.cli.options import ModelOptions, model_options, sampling_options
from dllama.cli.session import Session, model_path, open_session
from dllama.cli.settings import with_flags
from dllama.engine import EngineService
from dllama.errors import TokenizerError
from dllama.fabric import format_address, listen
from dllama.formats.hf_folders import model_name
from dllama.server import Api, HttpServer, ServedModel, ServerSettings, make_app
from dllama.server.connections import ConnectionLimits
from dllama.server.grammar import GrammarCompiler
from dllama.server.hosts import names_of_machine
from dllama.server.keeper import ModelKeeper
from dllama.server.metrics import Metrics
from dllama.tokenizer import ChatTemplate, Tokenizer
from dllama.tokenizer.fit import longest_text_bytes

_log = logging.getLogger(__name__)

_QUEUED_PER_TEXT = 16
"""Requests that may wait for each one that is at work."""


_USUAL_CONNECTIONS = 512


def run(args: argparse.Namespace) -> None:
    options = model_options(args)
    settings = ServerSettings(
        model_name=args.model_name or _model_name(options),
        api_keys=tuple(args.api_key),
        host_names=(args.host, *names_of_machine(socket.gethostname()), *args.allow_host),
        cors_origins=tuple(args.cors_origin),
        sampling=sampling_options(args),
        chat_sampling=sampling_options(args, read_suggested_sampling(model_path(options))),
        is_strict=args.strict_model,
    )

    on_note = _log.info

    @contextlib.contextmanager
    def open_model() -> Iterator[ServedModel]:
        nonlocal on_note
        on_this, on_note = on_note, _log.debug  # nothing is chosen anew when it is opened again
        with (
            open_session(options, args.isa, args.parallel, on_this) as session,
            _template(session.tokenizer, args.chat_template) as template,
            contextlib.closing(_grammars(session, template)) as grammars,
            contextlib.closing(_service(session, args)) as service,
        ):
            yield _served(session, service, grammars, template)

    def stop() -> None:
        http.stop()

    on_give_up = stop if options.job else None  # the other ranks of a job end with the one that was lost
    with (
        listen(args.host, args.port) as listener,
        ModelKeeper(open_model, _log.warning, on_give_up=on_give_up) as keeper,
    ):
        api = Api(
            settings=settings,
            served=keeper.served,
            nodes=keeper.nodes,
            metrics=Metrics(keeper.stats),
            clock=time.time,
            started=time.time(),
        )
        _say_where(listener, settings)
        http = HttpServer(make_app(api), listener, api.ending.set, _connection_limits(args.parallel))
        http.run()
        if on_give_up and keeper.failure:
            raise keeper.failure.error()


def _connection_limits(n_parallel: int) -> ConnectionLimits:
    """Twice as many connections as texts can run or wait, as far as three quarters of the descriptors go."""
    n_places = n_parallel * (1 + _QUEUED_PER_TEXT)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_spare = most * 3 // 4 if most != resource.RLIM_INFINITY else _USUAL_CONNECTIONS
    return ConnectionLimits(max_connections=min(n_spare, max(_USUAL_CONNECTIONS, 2 * n_places)))


def _service(session: Session, args: argparse.Namespace) -> EngineService:
    return EngineService(
        session.cluster,
        session.tokenizer,
        n_parallel=args.parallel,
        max_queued=args.parallel * _QUEUED_PER_TEXT,
        max_seq_len=session.max_seq_len,
        speculate=args.speculate,
    )


def _grammars(session: Session, template: ChatTemplate | None) -> GrammarCompiler:
    end_ids = template.end_ids if template is not None else frozenset()
    return GrammarCompiler(session.tokenizer, session.config.vocab_size, end_ids)


def _served(
    session: Session, service: EngineService, grammars: GrammarCompiler, template: ChatTemplate | None
) -> ServedModel:
    return ServedModel(
        service=service,
        tokenizer=session.tokenizer,
        template=template,
        max_seq_len=session.max_seq_len,
        max_text_bytes=longest_text_bytes(session.tokenizer, session.max_seq_len),
        grammars=grammars,
        nodes=session.cluster.nodes,
    )


@contextlib.contextmanager
def _template(tokenizer: Tokenizer, name: str | None) -> Iterator[ChatTemplate | None]:
    """None for a model that has none and suggests none: it can still continue text."""
    try:
        template = ChatTemplate.of(tokenizer, name)
    except TokenizerError as error:
        if name is not None:
            raise
        announce(f"only text can be continued: {with_flags(error)}")
        yield None
    else:
        with contextlib.closing(template):
            yield template


def _model_name(options: ModelOptions) -> str:
    """What the file or folder is called; the demo model's name where there is none."""
    if options.model is None:
        return "dllama-demo"
    return model_name(Path(options.model).resolve())


def _say_where(listener: socket.socket, settings: ServerSettings) -> None:
    host, port = listener.getsockname()[:2]
    announce(f"{settings.model_name} is served on http://{format_address(host, port)}")
    if not (ipaddress.ip_address(host).is_loopback or settings.api_keys):
        announce("anyone who reaches this port can use the model: --api-key asks for a key")
