"""The model over HTTP, as OpenAI's clients speak it, and a page to talk with it."""

from dllama.server.api import Api
from dllama.server.app import make_app
from dllama.server.run import HttpServer
from dllama.server.served import ServedModel, ServerSettings

__all__ = ["Api", "HttpServer", "ServedModel", "ServerSettings", "make_app"]
