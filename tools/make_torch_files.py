"""Makes tests/formats/saved_by_torch/: small files as `torch.save` writes them, and one that runs something if it can.

REFERENCE/bin/python tools/make_torch_files.py        # with torch; see docs/families.md for the environment
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "formats" / "saved_by_torch"


class Runs:
    """What unpickling would call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo unpickled",)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    numbers = torch.arange(12.0).reshape(3, 4)
    half = torch.nn.Parameter(numbers.half(), requires_grad=False)
    torch.save({"a.weight": numbers.bfloat16(), "rope.freqs": torch.ones(3)}, FOLDER / "dict.pth")
    torch.save(OrderedDict(half=half, part=numbers[1:]), FOLDER / "ordered.pth")
    torch.save({"x": numbers.T}, FOLDER / "transposed.pth")
    torch.save({"x": Runs()}, FOLDER / "runs.pth")


if __name__ == "__main__":
    main()
