"""Models and tokenizers: converted here or read from their directory, the text is the same."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dllama.formats.gguf import GgufFile
from support.local_cluster import GOLDENS
from support.processes import DEMO_MODEL, WorkerPool, inference, run_dllama, run_well

STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with the demo's tokenizer, converted as the article does it."""
    folder = tmp_path_factory.mktemp("converted")
    done = run_well("convert", "tokenizer", DEMO_MODEL, "demo", cwd=folder)
    assert [path.name for path in folder.iterdir()] == ["dllama_tokenizer_demo.t"]
    assert "dllama_tokenizer_demo.t" in done.out
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model where something can be kept beside it."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path_factory.mktemp("original") / "demo"))


def ids_of(folder: Path, *arguments: object) -> list[int]:
    path = folder / "ids.json"
    run_well(*inference(*arguments, "--ignore-eos", "--report", path, steps=STEPS))
    ids: list[int] = json.loads(path.read_text())["token_ids"]
    path.unlink()
    assert len(ids) == STEPS
    return ids


@pytest.mark.parametrize("weight_type", ["q40", "q80", "f16", "f32"])
def test_a_converted_model_gives_the_ids_of_its_directory(weight_type: str, folder: Path, demo: Path) -> None:
    """Of q40 too: both know which weights matter."""
    done = run_well("convert", "hf", demo, weight_type, "demo", "--output-dir", folder)
    model = folder / f"dllama_model_demo_{weight_type}.m"
    assert f"{model}: 4.2 M weights" in done.out
    assert "100" in done.err or "writing" in done.err  # the progress has ended
    for buffer_type in ("q80", "f32"):
        buffers = ("--buffer-float-type", buffer_type)
        from_file = ids_of(
            folder, "--model", model, "--tokenizer", folder / "dllama_tokenizer_demo.t", *buffers
        )
        assert from_file == ids_of(folder, "--model", demo, "--weights-float-type", weight_type, *buffers)
    model.unlink()
    assert [path.name for path in folder.iterdir()] == ["dllama_tokenizer_demo.t"]


def test_importance_is_found_once_and_kept(demo: Path, tmp_path: Path) -> None:
    """Where it cannot be kept it is found each time."""
    folder = Path(shutil.copytree(demo, tmp_path / "demo", ignore=shutil.ignore_patterns("dllama-*")))
    command = ("convert", "hf", folder, "q40", "demo", "--output-dir", tmp_path)
    model, kept = tmp_path / "dllama_model_demo_q40.m", folder / "dllama-importance.safetensors"
    blindly = run_well(*command, "--importance", "none")
    assert "importance" not in blindly.err
    assert not kept.exists()
    without = model.read_bytes()
    first = run_well(*command)
    assert f"kept in {kept}" in first.err
    assert len(model.read_bytes()) == len(without)
    assert model.read_bytes() != without
    found, weighed = kept.read_bytes(), model.read_bytes()
    again = run_well(*command)
    assert "found before" in again.err
    assert model.read_bytes() == weighed
    text = tmp_path / "text.txt"
    text.write_text("A dog and a cat. " * 9)
    run_well(*command, "--importance", text)
    assert kept.read_bytes() != found
    kept.write_bytes(b"no such file")
    done = run_dllama(*command)
    assert (done.code, str(kept) in done.error_line) == (1, True)


def test_a_gguf_file_of_four_bits(demo: Path, tmp_path: Path) -> None:
    run_well("convert", "hf", demo, "iq4nl", "demo", "--output-dir", tmp_path)
    model, text = tmp_path / "dllama_model_demo_iq4nl.gguf", tmp_path / "text.txt"
    text.write_text("Once upon a time there was a small dog. The cat sat on the mat. " * 10)
    out = run_well("perplexity", "--model", model, "--reference", demo, "--file", text).out
    (mean,) = re.findall(r"^mean KL divergence: (.*)$", out, re.MULTILINE)
    assert 0 < float(mean) < 0.1
    assert len(ids_of(tmp_path, "--model", model)) == STEPS


@pytest.fixture(scope="module")
def demo_gguf(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    run_well("convert", "hf", demo, "q6k", "demo", "--output-dir", folder)
    return folder / "dllama_model_demo_q6k.gguf"


@pytest.mark.parametrize("weight_type", ["q40", "f16"])
def test_a_gguf_file_becomes_a_model_and_a_tokenizer(
    weight_type: str, demo_gguf: Path, demo: Path, tmp_path: Path
) -> None:
    """The files together say what the one said."""
    done = run_well("convert", "gguf", demo_gguf, weight_type, "demo", "--output-dir", tmp_path)
    model, tokenizer = tmp_path / f"dllama_model_demo_{weight_type}.m", tmp_path / "dllama_tokenizer_demo.t"
    assert f"{tokenizer}: 2048 tokens" in done.out
    assert ("q6k" in done.err) is (weight_type == "q40")  # what that lost stays lost
    from_file = ids_of(tmp_path, "--model", model)
    assert from_file == ids_of(tmp_path, "--model", demo_gguf, "--weights-float-type", weight_type)
    kept = demo_gguf.with_name("dllama_model_demo_q6k-importance.safetensors")
    assert kept.exists() or weight_type == "f16"
    assert b"chat_template" in demo_gguf.read_bytes()
    run_well("convert", "tokenizer", demo, "original", "--output-dir", tmp_path)
    assert (tmp_path / "dllama_tokenizer_original.t").read_bytes() == tokenizer.read_bytes()


def test_a_gguf_file_becomes_another(demo_gguf: Path, tmp_path: Path) -> None:
    """Its tokenizer goes along as it is, and a folder of one is like the file."""
    for source, name in ((demo_gguf, "file"), (demo_gguf.parent, "folder")):
        run_well("convert", "gguf", source, "iq4nl", name, "--output-dir", tmp_path)
    file, folder = (tmp_path / f"dllama_model_{name}_iq4nl.gguf" for name in ("file", "folder"))
    assert ids_of(tmp_path, "--model", file) == ids_of(tmp_path, "--model", folder)
    was, is_now = (GgufFile(path).metadata for path in (demo_gguf, file))
    for key in was:
        if key.startswith("tokenizer."):
            assert _listed(was[key]) == _listed(is_now[key])
    again = run_well("convert", "gguf", file, "iq4nl", "again", "--output-dir", tmp_path)
    assert "importance" not in again.err  # nothing is quantised
    assert "stays lost" not in again.err


def _listed(value: Any) -> Any:
    return list(value) if hasattr(value, "__len__") else value


def test_a_gguf_file_that_is_rounded_blindly_is_said_to_be(demo_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.symlink_to(demo_gguf)
    command = inference("--model", file, steps=8)
    assert "dllama convert" not in run_well(*command).err
    four_bits = (*command, "--weights-float-type", "q4k")
    assert f"dllama convert gguf {file} q4k NAME" in run_well(*four_bits).err
    run_well("convert", "gguf", file, "iq4nl", "demo", "--output-dir", tmp_path)
    assert "dllama convert" not in run_well(*four_bits).err


def test_weights_that_are_rounded_blindly_are_said_to_be(demo: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo, tmp_path / "demo", ignore=shutil.ignore_patterns("dllama-*")))
    command = inference("--model", folder, steps=8)
    assert f"dllama convert hf {folder} iq4nl NAME" in run_well(*command).err
    run_well("convert", "hf", folder, "q40", "demo", "--output-dir", tmp_path)
    assert "dllama convert" not in run_well(*command).err
    assert "dllama convert" not in run_well(*command, "--weights-float-type", "q80").err


@pytest.mark.parametrize("weight_type", ["q40", "q80", "f16", "f32"])
@pytest.mark.slow
def test_every_pair_of_types_runs_on_workers(weight_type: str, tmp_path: Path, pool: WorkerPool) -> None:
    ids = []
    for buffer_type in ("q80", "f32"):
        types = ("--weights-float-type", weight_type, "--buffer-float-type", buffer_type)
        ids.append(ids_of(tmp_path, *types, "--workers", *pool.addresses(2)))
    n_prompt = 5
    assert ids[0][: n_prompt + 2] == ids[1][: n_prompt + 2]  # q80 rounds; the first words are certain enough


def test_a_text_of_more_than_one_step_for_its_prompt(tmp_path: Path) -> None:
    """Logits of a long prompt come in several steps, and are those of perplexity."""
    text = "Once upon a time there was a small dog. " * 30
    file, logits_file, report_file = tmp_path / "text.txt", tmp_path / "logits.npy", tmp_path / "report.json"
    file.write_text(text)
    types = ("--weights-float-type", "f32")
    flags = ("--prompt", text, "--logits", logits_file, "--report", report_file)
    run_well(*inference(*types, *flags, steps=None), "--steps", 1000)
    report = json.loads(report_file.read_text())
    logits = np.load(logits_file).astype(np.float64)
    ids = report["token_ids"][: report["n_prompt_tokens"]]
    assert len(ids) == len(logits) > 256
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    average = log_probabilities[np.arange(len(ids) - 1), ids[1:]].mean()
    out = run_well("perplexity", *types, "--nthreads", 1, "--file", file).out
    values = {name: float(value) for name, value in re.findall(r"^(.*): ([-\d.]+)$", out, re.MULTILINE)}
    assert values["tokens"] == len(ids) - 1
    assert values["perplexity"] == pytest.approx(math.exp(-average), rel=1e-3)
    assert values["average log-probability"] == pytest.approx(average, abs=1e-4)
    assert values["bits per token"] == pytest.approx(-average / math.log(2), abs=1e-3)
    assert run_well("perplexity", *types, "--nthreads", 1, "--file", "-", stdin=text).out == out


def test_perplexity_of_a_text_longer_than_the_context(tmp_path: Path, pool: WorkerPool) -> None:
    """In windows, on one node and on three."""
    file = tmp_path / "text.txt"
    file.write_text("The cat sat on the mat. " * 40)
    command = (
        "perplexity",
        "--nthreads",
        1,
        "--max-seq-len",
        64,
        "--weights-float-type",
        "f32",
        "--file",
        file,
    )
    alone = run_well(*command).out
    assert int(alone.split()[1]) > 200
    together = run_well(*command, "--workers", *pool.addresses(2)).out
    assert [float(value) for value in re.findall(r": ([-\d.]+)", together)] == pytest.approx(
        [float(value) for value in re.findall(r": ([-\d.]+)", alone)], rel=1e-4
    )


def test_divergence_from_a_reference(tmp_path: Path, pool: WorkerPool) -> None:
    """Nothing from itself; of fewer bits more; in windows too, and on three nodes."""
    file = tmp_path / "text.txt"
    file.write_text("Once upon a time there was a small dog. The cat sat on the mat. " * 10)
    command = ("perplexity", "--nthreads", 1, "--max-seq-len", 64, "--file", file, "--reference", DEMO_MODEL)
    means = []
    for weight_type in ("f32", "q80", "q40"):
        out = run_well(*command, "--weights-float-type", weight_type).out
        means.append(float(re.findall(r"^mean KL divergence: (.*)$", out, re.MULTILINE)[0]))
        assert "same first token: " in out
    assert 0 == means[0] < means[1] < means[2]
    types = ("--weights-float-type", "q40", "--reference-float-type", "q40")
    together = run_well(*command, *types, "--workers", *pool.addresses(2)).out
    assert "mean KL divergence: 0.000000" in together


def test_models_with_different_tokenizers_are_not_compared(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Once upon a time")
    other = tmp_path / "other"
    shutil.copytree(DEMO_MODEL, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    ids["Ġa"], ids["Ġtime"] = ids["Ġtime"], ids["Ġa"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = run_dllama("perplexity", "--file", file, "--reference", other)
    assert (done.code, "different tokenizers" in done.error_line) == (2, True)
    done = run_dllama("perplexity", "--file", file, "--reference-float-type", "q80")
    assert (done.code, "is for --reference" in done.error_line) == (2, True)


def test_info_of_a_directory() -> None:
    out = run_well("info", DEMO_MODEL, env={"COLUMNS": "120"}).out
    for text in (
        "family",
        "llama",
        "embedding",
        "layers.*.q",
        "2048",
        "256",
        "iq4nl",
        "q80",
        "bf16",
        "final_norm",
        "all",
    ):
        assert text in out, text
    assert re.findall(r"^ *(\d) +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ *$", out, re.MULTILINE) == [
        "1",
        "2",
        "4",
        "8",
    ]


def test_info_of_a_file(tmp_path: Path) -> None:
    run_well("convert", "hf", GOLDENS / "llama-gqa", "q80", "x", cwd=tmp_path)
    out = run_well("info", tmp_path / "dllama_model_x_q80.m", env={"COLUMNS": "120"}).out
    for text in ("1 architecture", "2 dim", "13 weight_type", "nodes", "KV cache MB", "at most 4 nodes"):
        assert text in out, text
