"""README's commands are those that exist: the two of make, and every dllama command line in the documents."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from dllama.cli.main import parse_arguments

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_lines(document: Path) -> list[str]:
    """Lines of code blocks, continued lines joined, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    return [line.split(" #")[0].strip() for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def test_the_two_commands() -> None:
    lines = code_lines(ROOT / "README.md")
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert targets == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


COMMANDS = [
    (document.name, line)
    for document in DOCUMENTS
    for line in code_lines(document)
    if line.startswith("dllama ")
]


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_commands_can_be_parsed(document: str, line: str) -> None:
    parse_arguments(shlex.split(re.split(r" [|<] ", line)[0])[1:])


def test_the_licence_is_where_everyone_looks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith(f"{project['license']} License")
    assert f"Copyright (c) 2026 {project['authors'][0]['name']}" in licence
    assert project["license-files"] == ["LICENSE"]
    assert "](LICENSE)" in (ROOT / "README.md").read_text()


def test_readme_shows_commands() -> None:
    shown = {line.split()[1] for document, line in COMMANDS if document == "README.md"}
    assert shown >= {"worker", "convert", "inference", "chat", "info", "perplexity", "tokenize"}
