"""What a repository holds, asked of the Hub (or of the mirror that HF_ENDPOINT names)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import httpx2
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from dllama.errors import DownloadError
from dllama.plain_text import LONGEST_NAME, plain_line

_LISTING_TIMEOUT_S = 30.0
_LARGEST_BYTES = 1 << 50
_SOUND_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]+(/[^/\\\x00-\x1f\x7f]+)*")
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubFile:
    """`sha256` of the content, for large files; small ones have `git_sha1`, the id of the blob that git makes of it."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def digest(self) -> str:
        return self.sha256 or self.git_sha1 or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """`revision`: the commit that all files are of. `license`: as its page says it. `is_gated`: its licence has to be
    agreed to by an account whose token is sent."""

    name: str
    revision: str
    license: str | None
    is_gated: bool
    files: Mapping[str, HubFile]


def list_repository(repo: str, token: str | None) -> Repository:
    """What ORG/NAME has now. Raises DownloadError, one line, when it is not to be had."""
    api = huggingface_hub.HfApi(token=token or False)
    try:
        info = api.model_info(repo, files_metadata=True, timeout=_LISTING_TIMEOUT_S)
    except OfflineModeIsEnabled as error:
        raise DownloadError(f"{repo}: HF_HUB_OFFLINE forbids to ask the Hub; unset it to download") from error
    except GatedRepoError as error:
        raise DownloadError(_gated(repo, bool(token))) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        hint = "" if token else ", or it is private: then set HF_TOKEN"
        raise DownloadError(f"{repo}: the Hub has no such model{hint}") from error
    except HfHubHTTPError as error:
        raise DownloadError(f"{repo}: {_endpoint()} answers {_status(error)}; try again later") from error
    except (httpx2.HTTPError, OSError) as error:
        raise DownloadError(
            f"{repo}: {_endpoint()} cannot be reached ({plain_line(str(error), 200)})"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DownloadError(f"{repo}: {_endpoint()} answers with no description of a model") from error
    return _repository(repo, info)


def _repository(repo: str, info: ModelInfo) -> Repository:
    if not isinstance(info.sha, str) or not _SHA1.fullmatch(info.sha):
        raise DownloadError(f"{repo}: {_endpoint()} does not say which revision it has")
    files = [_file(repo, sibling) for sibling in info.siblings or ()]
    card = info.card_data
    license_name = card.get("license_name") or card.get("license") if card is not None else None
    return Repository(
        name=repo,
        revision=info.sha,
        license=plain_line(str(license_name), LONGEST_NAME) if license_name else None,
        is_gated=bool(info.gated),
        files={file.name: file for file in files},
    )


def _file(repo: str, sibling: RepoSibling) -> HubFile:
    """Names become files here, so they stay below the folder that they are fetched to."""
    name, lfs = sibling.rfilename, sibling.lfs
    if not isinstance(name, str) or not _SOUND_NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise DownloadError(f"{repo}: {plain_line(str(name), LONGEST_NAME)} is no name for a file")
    size, sha256 = (lfs.size, lfs.sha256) if lfs is not None else (sibling.size, None)
    if not isinstance(size, int) or not 0 <= size < _LARGEST_BYTES:
        raise DownloadError(
            f"{repo}: {_endpoint()} does not say how large {plain_line(name, LONGEST_NAME)} is"
        )
    return HubFile(
        name=name,
        size=size,
        sha256=sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None,
        git_sha1=_git_sha1(sibling.blob_id) if lfs is None else None,
    )


def _git_sha1(blob_id: object) -> str | None:
    return blob_id if isinstance(blob_id, str) and _SHA1.fullmatch(blob_id) else None


def _gated(repo: str, has_token: bool) -> str:
    page = f"{_endpoint()}/{repo}"
    if has_token:
        return f"{repo}: the account of this token has not agreed to its licence; do that at {page}"
    return f"{repo}: its licence has to be agreed to at {page}; then set HF_TOKEN to a token of that account"


def _endpoint() -> str:
    return str(constants.ENDPOINT)


def _status(error: HfHubHTTPError) -> str:
    return f"{error.response.status_code} {error.response.reason_phrase}".strip()
