"""What is printed, in terminals of any width and in pipes, whatever the names in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.table import Table

from dllama.cli.console import PromptBar, note, print_table, show
from support.processes import DEMO_MODEL, run_well
from support.terminal import terminal


@pytest.mark.parametrize("n_columns", [12, 500])
def test_tables_are_whole(
    n_columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with text that looks like a style."""
    monkeypatch.setenv("COLUMNS", str(n_columns))
    words = ["[red]a name", "x" * 200, "one two three"]
    table = Table(*("first", "second", "third"), title="[bold]all")
    table.add_row(*words)
    print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert sum(all(word in line for word in words) for line in lines) == 1
    assert any("[bold]all" in line for line in lines)


def test_info_in_a_narrow_terminal(tmp_path: Path) -> None:
    """Every number of the piped table is on the screen."""
    numbers = re.findall(r"\d+\.\d+", run_well("info", DEMO_MODEL).out)
    with terminal(tmp_path, "info", DEMO_MODEL, n_columns=30) as screen:
        seen = screen.wait_for("\n  8 ") + screen.wait_for("\n")
        assert screen.end() == 0
    assert len(numbers) > 20
    assert re.findall(r"\d+\.\d+", seen) == numbers


def test_notes_and_texts_cannot_control_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes from models, files and peers is shown, but moves no cursor; in a pipe a text is as it is."""
    text = "a\x1b]0;title\x07\x1b[2J\x9b\rb\tc\nd é"
    note(text)
    show(text)
    captured = capsys.readouterr()
    assert captured.out == text
    assert captured.err == "a\ufffd]0;title\ufffd\ufffd[2J\ufffd\ufffdb\tc\nd é\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(text)
    assert capsys.readouterr().out + "\n" == captured.err


def test_a_prompt_in_a_pipe_gives_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 4.0, 6.0, 7.0, 12.0])
    bar = PromptBar(lambda: next(times))
    for done in (100, 400, 600, 700, 800, 1000):
        bar.show(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "prompt: 600 of 1000 tokens, 100 tokens/s, 4 s left",
        "prompt: 800 of 1000 tokens, 67 tokens/s, 3 s left",
    ]
