"""A long prompt shows how far it is: as a bar in a terminal of any width, not at all where it would be in the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.processes import DEMO_MODEL, inference, run_well
from support.terminal import terminal

PROMPT = "Once upon a time. " * 160
BAR = re.compile(r"(\d+) of (\d+) tokens")


def progress(seen: str) -> list[int]:
    """The tokens done, as the bar showed them, without repetitions."""
    return sorted({int(done) for done, _ in BAR.findall(seen)})


@pytest.mark.parametrize("stream", ["--stream", "--ignore-eos"], ids=["stream", "table"])
def test_inference(stream: str, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT)
    arguments = inference("--prompt-file", file, stream, "--model", DEMO_MODEL, steps=975)
    arguments = [argument for argument in arguments if argument not in ("--prompt", "Once upon a time")]
    with terminal(tmp_path, *arguments, env={"DLLAMA_ISA": "scalar"}) as screen:
        seen = screen.wait_for("Evaluation")
        n_prompt = int(re.search(r"nTokens: (\d+)", screen.wait_for("Prediction"))[1])
    done = progress(seen)
    assert len(done) > 2
    assert {int(total) for _, total in BAR.findall(seen)} == {n_prompt}
    assert done[-1] < n_prompt
    piped = run_well(*arguments)
    assert not BAR.search(piped.out + piped.err)


@pytest.mark.parametrize("n_columns", [80, 30])
def test_chat(n_columns: int, tmp_path: Path) -> None:
    """The bar is gone when the reply comes, also where there is hardly room for it; no colours if none are wanted."""
    env = {"DLLAMA_ISA": "scalar", "NO_COLOR": "1"}
    chat_arguments = ("chat", "--model", DEMO_MODEL, "--nthreads", 1, "--temperature", 0)
    with terminal(tmp_path, *chat_arguments, env=env, n_columns=n_columns) as chat:
        chat.wait_for("> ")
        chat.paste("Once upon a time. " * 50)
        chat.type("\r")
        seen = chat.wait_raw("small demo model")
        assert len(progress(seen)) > 1
        assert not re.search(r"\x1b\[[\d;]*(3[0-7]|9[0-7]|38)[\d;]*m", seen)
        reply = seen.rpartition("\x1b[2K")[2]  # the last line that was erased is the bar
        assert "tokens" not in reply
        assert "\n" not in reply.strip()
        chat.wait_for("> ")
        chat.type("/exit\r")
        assert chat.end() == 0
