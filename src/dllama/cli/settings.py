"""What the settings that errors name are called on the command line."""

from __future__ import annotations

from dllama.errors import DllamaError

FLAGS = {
    "cache_directory": "--kv-cache-dir",
    "cache_storage": "--kv-cache-storage disk",
    "cache_type": "--kv-cache-type",
    "chat_template": "--chat-template",
    "experts": "--experts",
    "host": "--host",
    "max_seq_len": "--max-seq-len",
    "port": "--port",
    "seed": "--seed",
    "shape": "--shape",
    "shares": "--shares",
    "temperature": "--temperature",
    "topk": "--topk",
    "topp": "--topp",
    "worker": "dllama worker --port",
    "workers": "--workers",
}


def with_flags(error: DllamaError) -> str:
    """What the error says, and the flags of the settings that it is about."""
    flags = [FLAGS[setting] for setting in error.settings]
    return f"{error} ({', '.join(flags)})" if flags else str(error)
