"""Models of the Hugging Face Hub: what is there, which of its files a model needs, and getting them here.

What uses huggingface_hub is imported when it is used first (PEP 562): that library takes longer than all else of the
program's start together, and most commands do without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dllama.hub.catalogue import CATALOGUE, KnownModel
from dllama.hub.names import HubName, hub_name
from dllama.hub.selection import Selection, select_files

if TYPE_CHECKING:
    from dllama.hub.fetch import download
    from dllama.hub.listing import Repository, list_repository
    from dllama.hub.store import downloaded, models_directory

__all__ = [
    "CATALOGUE",
    "HubName",
    "KnownModel",
    "Repository",
    "Selection",
    "download",
    "downloaded",
    "hub_name",
    "list_repository",
    "models_directory",
    "select_files",
]

_LATE = {
    "download": "fetch",
    "Repository": "listing",
    "list_repository": "listing",
    "downloaded": "store",
    "models_directory": "store",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
