"""Texts in llguidance's dialect of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping


def literal(text: str, special_tokens: Mapping[str, int]) -> str:
    """`text` with the special tokens in it as such."""
    if not text:
        return ""
    names = [re.escape(name) for name in special_tokens if name in text]
    parts = re.split(f"({'|'.join(names)})", text) if names else [text]
    return " ".join(
        f"<[{special_tokens[part]}]>" if part in special_tokens else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )
