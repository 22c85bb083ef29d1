"""The model behind the API, and what the API was told about itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from dllama.engine import EngineService, SamplingOptions
from dllama.node import NodeInfo
from dllama.server.grammar import GrammarCompiler
from dllama.tokenizer import ChatTemplate, Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """`api_keys` empty: everyone may ask. `host_names`: see HostCheck. `sampling` is what a request that says nothing
    gets, `chat_sampling` what a chat gets. `is_strict`: a request has to name the served model, or none."""

    model_name: str
    api_keys: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    sampling: SamplingOptions = dataclasses.field(default_factory=SamplingOptions)
    chat_sampling: SamplingOptions = dataclasses.field(default_factory=SamplingOptions)
    is_strict: bool = False
    max_body_bytes: int = 4 << 20
    body_timeout_s: float = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that is ready. `template` None: it can only continue text.

    max_text_bytes   a longer text has more than `max_seq_len` tokens, whatever stands in it
    """

    service: EngineService
    tokenizer: Tokenizer
    template: ChatTemplate | None
    max_seq_len: int
    max_text_bytes: int
    grammars: GrammarCompiler
    nodes: Callable[[], Sequence[NodeInfo]]
