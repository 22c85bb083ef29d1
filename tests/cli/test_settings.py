"""Errors of the library name settings; only the command line knows what its flags are called."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dllama
from dllama.cli.main import _parser
from dllama.cli.settings import FLAGS, with_flags
from dllama.errors import ContextFullError, DllamaError, Failure
from support.processes import DEMO_MODEL, run_dllama

SOURCE = Path(dllama.__file__).parent
OUTSIDE = [path for path in sorted(SOURCE.rglob("*.py")) if path.relative_to(SOURCE).parts[0] != "cli"]


def own_flags(parser: argparse.ArgumentParser) -> set[str]:
    """The flags of the command and of the commands below it."""
    flags: set[str] = set()
    for action in parser._actions:
        flags |= {name for name in action.option_strings if name.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                flags |= own_flags(command)
    return flags


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named_settings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "settings" and isinstance(node.value, ast.Tuple):
            yield from (part.value for part in node.value.elts if isinstance(part, ast.Constant))


def test_no_text_of_the_library_names_a_flag() -> None:
    flags = own_flags(_parser())
    assert {"--max-seq-len", "--shares"} <= flags
    found = [
        f"{path.relative_to(SOURCE)}: {flag}"
        for path in OUTSIDE
        for text in strings(path)
        for flag in re.findall(r"--[a-z][a-z-]*", text)
        if flag in flags
    ]
    assert not found


def test_every_setting_that_an_error_names_has_a_flag() -> None:
    named = {setting for path in OUTSIDE for setting in named_settings(path)}
    assert named == set(FLAGS)
    assert set(re.findall(r"--[a-z-]+", " ".join(FLAGS.values()))) <= own_flags(_parser())


def test_an_error_keeps_its_settings() -> None:
    error = ContextFullError("too long", settings=("max_seq_len",))
    assert with_flags(error) == "too long (--max-seq-len)"
    assert with_flags(Failure.of(error).error("sorry: ")) == "sorry: too long (--max-seq-len)"
    assert with_flags(DllamaError("no")) == "no"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--temperature", -1), "temperature takes a number from 0 up, not -1.0 (--temperature)"),
        (("--topp", 2), "topp takes a number from 0 to 1, not 2.0 (--topp)"),
        (("--shares", -1), "(--shares)"),
        (("--max-seq-len", 16, "--steps", 8), "--max-seq-len"),
    ],
    ids=str,
)
def test_the_command_line_names_its_flags(arguments: tuple[object, ...], says: str) -> None:
    done = run_dllama("inference", "--model", DEMO_MODEL, "--prompt", "Once upon a time " * 9, *arguments)
    assert done.code != 0
    assert says in done.err
