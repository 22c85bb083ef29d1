"""What a file is that is none of ours, by how it begins: people often have the wrong file in hand."""

from __future__ import annotations

_ANOTHER_DOWNLOAD = "download it again"

_BEGINNINGS = (
    (
        b"version https://git-lfs.github.com/spec/",
        "is a git-lfs pointer, not the file that it stands for; run `git lfs pull` where it lies, or "
        + _ANOTHER_DOWNLOAD,
    ),
    (b"GGUF", "is a GGUF file, which is a whole model; give it as the model"),
    (
        b"PK\x03\x04",
        "is a zip archive or PyTorch's .bin or .pth, which is not read; take the model's safetensors",
    ),
    (b"\x80\x02", "is a pickle of PyTorch (.bin, .pth), which is not read; take the model's safetensors"),
    (b"\x1f\x8b", "is compressed (gzip); unpack it first"),
    (b"\xfd7zXZ", "is compressed (xz); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it first"),
    (b"<!doctype html", f"is a web page, not the file; {_ANOTHER_DOWNLOAD}"),
    (b"<html", f"is a web page, not the file; {_ANOTHER_DOWNLOAD}"),
    (b"entry not found", f"is a server's answer that there is no such file; {_ANOTHER_DOWNLOAD}"),
    (
        b"invalid username or password",
        f"is a server's refusal; log in where it comes from and {_ANOTHER_DOWNLOAD}",
    ),
    (b"access to model", f"is a server's refusal; log in where it comes from and {_ANOTHER_DOWNLOAD}"),
)

HEAD_BYTES = 64
"""As much of a file's beginning as `stranger` looks at."""


def stranger(head: bytes) -> str | None:
    """What a file that begins with `head` is, and the way out, as the end of a sentence; None when not known."""
    text = head[:HEAD_BYTES].lstrip().lower()
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning) or (beginning.islower() and text.startswith(beginning)):
            return what
    return None
