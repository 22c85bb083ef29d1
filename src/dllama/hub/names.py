"""What people write for a model of the Hub: a name of the catalogue, ORG/REPO, ORG/REPO:FILE or its page's address."""

from __future__ import annotations

import dataclasses
import re

from dllama.hub.catalogue import CATALOGUE

_ADDRESS = re.compile(r"(https?:/+)?(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)
_FILE_OF_PAGE = re.compile(r"/(?:blob|resolve)/[^/]+/([^?#]+)")
_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::([\w./-]{1,200}))?")
"""The Hub's own rule for names of repositories: letters, digits, '-', '_' and '.', at most 96 of them."""


@dataclasses.dataclass(frozen=True)
class HubName:
    """`repo`: ORG/NAME. `choice`: a file of it or the name of a quantisation (`Q4_K_M`), where there are several."""

    repo: str
    choice: str | None = None

    def __str__(self) -> str:
        return self.repo if self.choice is None else f"{self.repo}:{self.choice}"


def hub_name(text: str) -> HubName | None:
    """The model that `text` stands for; None where it can be no name on the Hub."""
    known = CATALOGUE.get(text.lower())
    if known is not None:
        text = known.source
    address = _ADDRESS.match(text)
    if address:
        text = _without_page(text[address.end() :])
    match = _NAME.fullmatch(text)
    return HubName(match[1], match[2]) if match else None


def _without_page(path: str) -> str:
    """ORG/REPO or ORG/REPO:FILE of the path of a page: of a repository, of its files, or of one of them."""
    file = _FILE_OF_PAGE.search(path)
    repo = "/".join(re.split(r"[?#]", path)[0].rstrip("/").split("/")[:2])
    return f"{repo}:{file[1]}" if file else repo
