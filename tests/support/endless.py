"""Texts that go on until somebody ends them: the demo model, told that it has a context of 32768 tokens.

Its own context is full after a fraction of a second, so what a test does in the middle of such a text would come too
late now and then.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support.processes import DEMO_MODEL, inference

_CONTEXT = 32_768


def endless(*arguments: object, workers: Sequence[str] = ()) -> list[object]:
    """Arguments of `dllama inference` that write such a text; `arguments` come last and win."""
    return inference("--ignore-eos", *long_context(), *arguments, workers=workers, steps=_CONTEXT - 100)


def long_context() -> list[object]:
    """Flags that give a command the model, with all of its context."""
    return ["--model", _model(), "--max-seq-len", _CONTEXT]


@functools.cache
def _model() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dllama-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in DEMO_MODEL.iterdir():
        if path.name == "config.json":
            config = json.loads(path.read_text()) | {"max_position_embeddings": _CONTEXT}
            (folder / path.name).write_text(json.dumps(config))
        else:
            (folder / path.name).symlink_to(path)
    return folder
