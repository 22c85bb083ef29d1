"""What `dllama inference` prints, and when it stops."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import stat
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from support.processes import DEMO_MODEL, Finished, Running, WorkerPool, inference, run_dllama, run_well

STEP_LINE = re.compile(r"^(Eval|Pred) +\d+ ms Sync +\d+ ms \| Sent +\d+ kB Recv +\d+ kB \| (.*)$")


def steps_of(done: Finished) -> list[tuple[str, str]]:
    """(kind, what stands at the end) of the lines of steps."""
    return [(found[1], found[2]) for line in done.out.splitlines() if (found := STEP_LINE.match(line))]


def test_a_line_for_each_step_then_the_summary(pool: WorkerPool) -> None:
    addresses = pool.addresses(2)
    done = run_well(*inference(workers=addresses, steps=16))
    steps = steps_of(done)
    assert steps[0] == ("Eval", "(5 tokens)")
    assert [kind for kind, _ in steps[1:]] == ["Pred"] * 11
    summary = done.out.split("\n\n", 1)[1]
    for pattern in (
        r"Evaluation\n    nTokens: 5\n   tokens/s: [\d.]+ \([\d.]+ ms/tok\)",
        r"Prediction\n    nTokens: 10\n   tokens/s: [\d.]+ \([\d.]+ ms/tok\)",
        r"First token: \d+ ms",
        r"Loading: [\d.]+ s",
        *(rf"Sent to {address}: [\d.]+ MB weights, \d+ kB while computing" for address in addresses),
    ):
        assert re.search(pattern, summary), pattern
    assert "dllama's own small demo model" in done.err
    assert "--model" in done.err


def test_special_tokens_in_the_prompt() -> None:
    """Parsed as everybody else does, text on request; a begin of text in the prompt is not doubled."""
    prompt = "<|begin_of_text|>One day<|eot_id|>"

    def n_tokens(*more: object) -> int:
        done = run_well("inference", "--prompt", prompt, "--steps", 64, "--nthreads", 1, *more)
        return int(re.search(r"Evaluation\n    nTokens: (\d+)", done.out)[1])  # type: ignore[index]

    assert n_tokens() == 4
    assert n_tokens("--no-special") > 10


def test_generate_is_inference() -> None:
    inferred = run_well(*inference("--stream"))
    assert run_well("generate", *inference("--stream")[1:]).out == inferred.out != ""


def test_stream_prints_the_text_alone(tmp_path: Path) -> None:
    """What was measured goes to standard error."""
    report_file = tmp_path / "report.json"
    done = run_well(*inference("--stream", "--report", report_file))
    text = json.loads(report_file.read_text())["text"]
    assert len(text) > 20
    assert done.out == text + "\n"
    assert re.search(r"Prediction\n    nTokens: \d+\n", done.err)
    pieces = "".join(piece for _, piece in steps_of(run_well(*inference()))[1:])
    assert pieces == text


def test_a_row_is_one_line_whatever_the_token(tmp_path: Path) -> None:
    """Hot enough to draw line ends and control characters."""
    report_file = tmp_path / "report.json"
    done = run_well(
        *inference("--temperature", 100, "--topp", 1, "--seed", 5, "--ignore-eos", steps=300),
        "--report",
        report_file,
    )
    report = json.loads(report_file.read_text())
    rows = done.out.split("\n\n")[0]
    assert len(rows.splitlines()) == 1 + report["n_generated_tokens"]
    assert {unicodedata.category(char) for char in rows.replace("\n", "")}.isdisjoint({"Cc", "Zl", "Zp"})
    assert any(unicodedata.category(char) == "Cc" for char in report["text"])  # or this shows nothing


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "table"])
@pytest.mark.slow
def test_ctrl_c_shows_what_was_measured(stream: bool, tmp_path: Path) -> None:
    """The step under way is finished, and the report and the trace are written as after any other text."""
    report_file, trace_file = tmp_path / "report.json", tmp_path / "trace.json"
    command = inference("--ignore-eos", "--report", report_file, "--trace", trace_file, steps=1024)
    with Running(*command, *(["--stream"] if stream else []), env={"DLLAMA_ISA": "scalar"}) as root:
        if stream:
            root.out.wait_for_text(".")
        else:
            root.out.wait_for("Pred", 3)
        root.interrupt()
        done = root.finish()
    assert done.code == 130
    report = json.loads(report_file.read_text())
    assert 3 <= report["n_generated_tokens"] < 1000
    assert json.loads(trace_file.read_text())["traceEvents"]
    summary = done.err if stream else done.out
    assert f"Prediction\n    nTokens: {report['decode']['tokens']}\n" in summary
    if stream:
        assert done.out == report["text"] + "\n"


def test_a_prompt_in_a_file_or_over_standard_input(tmp_path: Path) -> None:
    """Also one that no command line can hold; a line end after it is the editor's, not the prompt's."""
    text = "Once upon a time"
    file = tmp_path / "prompt.txt"
    wanted = run_well(*inference("--stream", "--prompt", text)).out
    arguments = [*inference("--stream")[:1], *inference("--stream")[3:]]
    for content in (text, f"{text}\n", f"{text}\r\n", f"\ufeff{text}"):
        file.write_bytes(content.encode())
        assert run_well(*arguments, "--prompt-file", file).out == wanted
    assert run_well(*arguments, "--prompt-file", "-", stdin=text + "\n").out == wanted
    done = run_dllama(*arguments, "--prompt-file", "-", stdin="word " * 40_000)
    assert done.code == 1
    assert "the prompt has" in done.error_line


def test_prompts_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"\n")
    arguments = ["inference", "--model", DEMO_MODEL]
    for given, fragment in (
        (["--prompt-file", file], f"--prompt-file {file} is empty"),
        (["--prompt-file", "-"], "--prompt-file - is empty"),
        (["--prompt-file", "/dev/zero"], "/dev/zero is larger than 256 MiB"),
        (["--prompt-file", DEMO_MODEL / "model.safetensors"], "model.safetensors is not UTF-8 text"),
        (["--prompt-file", file, "--prompt", "Hello"], "--prompt"),
        ([], "--prompt-file"),
    ):
        done = run_dllama(*arguments, *given)
        assert done.code == 2, done
        assert fragment in done.error_line


@pytest.mark.parametrize("steps", [5, 6, 30])
def test_steps_count_prompt_and_text(steps: int, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    run_well(*inference("--ignore-eos", "--report", report_file, steps=steps))
    report = json.loads(report_file.read_text())
    assert report["n_prompt_tokens"] == 5
    assert report["n_generated_tokens"] == steps - 5
    assert len(report["token_ids"]) == steps


def test_an_end_token_ends_the_text_unless_it_is_ignored(tmp_path: Path) -> None:
    """A question in the model's template is answered and ended within its context."""
    eos_ids = json.loads((DEMO_MODEL / "generation_config.json").read_text())["eos_token_id"]
    report_file = tmp_path / "report.json"
    run_well(*inference("--report", report_file, steps=None))
    ended = json.loads(report_file.read_text())["token_ids"]
    assert len(ended) < 1024
    assert ended[-1] in eos_ids
    assert not set(ended[5:-1]) & set(eos_ids)
    run_well(*inference("--report", report_file, "--ignore-eos", steps=len(ended) + 8))
    assert json.loads(report_file.read_text())["token_ids"][: len(ended)] == ended
    assert json.loads(report_file.read_text())["n_generated_tokens"] == len(ended) + 8 - 5


def test_a_full_context_ends_the_text(tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    run_well(*inference("--ignore-eos", "--max-seq-len", 16, "--report", report_file, steps=None))
    assert len(json.loads(report_file.read_text())["token_ids"]) == 16


def test_seeds(tmp_path: Path) -> None:
    hot = ("--stream", "--temperature", 1.5, "--topp", 1)
    texts = [run_well(*inference(*hot, "--seed", seed)).out.split("\n\n")[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_prompts_of_any_characters(tmp_path: Path) -> None:
    """The prompt is taken as it is; with `--no-special` names of special tokens in it are text."""
    report_file = tmp_path / "report.json"
    for prompt in ("日本語 🙂‍🙂 ", "<|eot_id|> said he", "  two  spaces\n\n"):
        run_well(*inference("--no-special", "--prompt", prompt, "--report", report_file, steps=60))
        report = json.loads(report_file.read_text())
        prompt_ids = report["token_ids"][: report["n_prompt_tokens"]]
        special = json.loads((DEMO_MODEL / "config.json").read_text())["bos_token_id"]
        assert max(prompt_ids[1:]) < special == prompt_ids[0]


def test_golden_logits_are_stored_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "logits.npy"
    run_well(*inference("--logits", path, steps=5))
    logits = np.load(path)
    assert logits.shape == (5, 2048)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert [file.name for file in tmp_path.iterdir()] == ["logits.npy"]


@pytest.mark.skipif(sys.platform != "linux", reason="pipes of other systems are too small for this")
def test_outputs_go_through_pipes_and_links(tmp_path: Path) -> None:
    """A name of an output may stand for anything: nothing but a plain file is ever replaced."""
    names = ("report", "trace", "logits")
    pipes = [tmp_path / name for name in names]
    for pipe in pipes:
        os.mkfifo(pipe)
    readers = [os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) for pipe in pipes]
    for reader in readers:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)
    flags = [item for name, pipe in zip(names, pipes, strict=True) for item in (f"--{name}", pipe)]
    run_well(*inference(*flags, steps=7))
    report, trace, logits = (os.read(reader, 1 << 20) for reader in readers)
    for reader in readers:
        os.close(reader)
    assert json.loads(report)["n_generated_tokens"] == 2
    assert json.loads(trace)["traceEvents"]
    assert np.load(io.BytesIO(logits)).shape == (5, 2048)
    assert all(stat.S_ISFIFO(pipe.lstat().st_mode) for pipe in pipes)

    link = tmp_path / "link.npy"
    link.symlink_to("target.npy")
    run_well(*inference("--logits", link, steps=7))
    assert link.is_symlink()
    assert (tmp_path / "target.npy").read_bytes() == logits
