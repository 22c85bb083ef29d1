"""What quantising a model costs: the table of docs/quality.md.

    .venv/bin/python tools/measure_quality.py .real-models/SmolLM2-135M-Instruct

Converts the Hugging Face directory to each type, with and without importance, and prints how far the predictions of
each are from the original's in float32, over tools/quality/prose.txt or --text; how long converting took, and
how much memory. Needs a minute or two for a model of 135 million weights.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dllama.checkpoint import open_checkpoint
from dllama.checkpoint.weight_types import bits_of_layers
from dllama.dtypes import ElementType

PROSE = Path(__file__).parent / "quality" / "prose.txt"
KEPT = "dllama-importance.safetensors"


@dataclasses.dataclass(frozen=True)
class Case:
    label: str
    dtype: ElementType
    importance: str | None


CASES = [
    Case("q40, all weights alike", ElementType.Q40, "none"),
    Case("q40", ElementType.Q40, None),
    Case("iq4nl, all weights alike", ElementType.IQ4NL, "none"),
    Case("iq4nl", ElementType.IQ4NL, None),
    Case("q4k, all weights alike", ElementType.Q4K, "none"),
    Case("q4k", ElementType.Q4K, None),
    Case("q6k, all weights alike", ElementType.Q6K, "none"),
    Case("q6k", ElementType.Q6K, None),
    Case("q80", ElementType.Q80, None),
]


@dataclasses.dataclass(frozen=True)
class Done:
    out: str
    seconds: float
    peak_mb: float


def dllama(*arguments: object) -> Done:
    """Ends this program where the command fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "dllama", *map(str, arguments)], stdout=out, stderr=err
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(err.read().decode())
        return Done(out.read().decode(), time.perf_counter() - start, usage.ru_maxrss / 1000)


def linked(model: Path, folder: Path) -> Path:
    """The model's files, and a place for what is kept beside them."""
    folder.mkdir()
    for path in model.iterdir():
        if path.name != KEPT:
            (folder / path.name).symlink_to(path.resolve())
    return folder


def bits(model: Path) -> float:
    """Of each weight in the matrices of the layers."""
    with contextlib.closing(open_checkpoint(model)) as checkpoint:
        return bits_of_layers(checkpoint.model)


def row(case: Case, model: Path, text: Path, folder: Path) -> str:
    chosen = [] if case.importance is None else ["--importance", case.importance]
    done = dllama("convert", "hf", model, case.dtype.label, "measured", "--output-dir", folder, *chosen)
    (converted,) = folder.glob(f"dllama_model_measured_{case.dtype.label}.*")
    n_bytes = converted.stat().st_size
    out = dllama(
        "perplexity", "--model", converted, "--tokenizer", model, "--reference", model, "--file", text
    ).out
    values = dict(re.findall(r"^(.*): ([\d.]+)", out, re.MULTILINE))
    cells = [
        case.label,
        f"{bits(converted):.2f}",
        f"{n_bytes / 1e6:.0f}",
        values["perplexity"],
        values["mean KL divergence"],
        values["99th percentile of KL divergence"],
        values["same first token"] + " %",
        f"{done.seconds:.1f}",
        f"{done.peak_mb:.0f}",
    ]
    converted.unlink()
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, default=PROSE)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as temporary:
        folder = Path(temporary)
        model = linked(args.model, folder / "model")
        heads = [
            "type",
            "bits",
            "MB",
            "perplexity",
            "mean KL",
            "99th percentile",
            "same first",
            "s",
            "peak MB",
        ]
        print("| " + " | ".join(heads) + " |")
        print("|" + "---|" * len(heads))
        for case in CASES:
            print(row(case, model, args.text, folder), flush=True)


if __name__ == "__main__":
    main()
