"""What people get wrong: one line that names the thing and the way out, the right exit code, nothing left behind.

Exit code 2 is a wrong use of the command line, 1 a fault of a file, a peer or this computer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dllama.checkpoint import open_checkpoint
from dllama.checkpoint.m.config import config_from_header, header_from_config, weight_type_of
from dllama.dtypes import ElementType
from dllama.formats.m_file import MFile, encode_header
from dllama.formats.t_file import write_t_file
from dllama.tokenizer.convert import convert_tokenizer
from support import fake_nodes
from support.alike import alike
from support.local_cluster import GOLDENS
from support.processes import DEMO_MODEL, Finished, Running, inference, run_dllama

MakeModel = Callable[[Path, Path], Path]
"""(a sound .m file, an empty directory) -> what --model is given."""


def fails(done: Finished, code: int, *fragments: str) -> None:
    assert done.code == code, done
    for fragment in fragments:
        assert fragment in done.error_line, done.error_line


# Model files


def missing(_m_file: Path, folder: Path) -> Path:
    return folder / "absent.m"


def wrong_magic(_m_file: Path, folder: Path) -> Path:
    path = folder / "wrong.m"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def resized(n_bytes: int) -> MakeModel:
    def make(m_file: Path, folder: Path) -> Path:
        path = folder / "resized.m"
        path.write_bytes((m_file.read_bytes() + bytes(max(n_bytes, 0)))[: min(n_bytes, 0) or None])
        return path

    return make


def unknown_key(m_file: Path, folder: Path) -> Path:
    path = folder / "key.m"
    data = bytearray(m_file.read_bytes())
    struct.pack_into("<i", data, 8, 99)  # the first pair's key
    path.write_bytes(data)
    return path


def golden(name: str, change: Callable[[Path], None]) -> MakeModel:
    def make(_m_file: Path, folder: Path) -> Path:
        path = folder / name
        shutil.copytree(GOLDENS / name, path)
        change(path)
        return path

    return make


def set_config(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


SPOILT_MODELS = {
    "missing": (missing, "absent.m: there is no such file"),
    "wrong magic": (wrong_magic, "wrong.m"),
    "truncated": (resized(-1), "resized.m: is truncated"),
    "overlong": (resized(1), "resized.m: is too long"),
    "unknown key": (unknown_key, "key.m", "99"),
    "shard missing": (
        golden("qwen3-shards", lambda path: (path / "model-00002-of-00003.safetensors").unlink()),
        "model-00002-of-00003.safetensors",
    ),
    "wrong shape": (
        golden("llama-gqa", set_config(intermediate_size=64)),
        "model.safetensors: model.layers.0.mlp.",
        "shape",
    ),
    "unknown family": (
        golden("llama-gqa", set_config(model_type="falcon", architectures=["FalconForCausalLM"])),
        "falcon",
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
    ),
}


@pytest.mark.parametrize("name", SPOILT_MODELS)
def test_a_spoilt_model(name: str, m_file: Path, tmp_path: Path) -> None:
    make, *fragments = SPOILT_MODELS[name]
    model = make(m_file, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    fails(run_dllama(*inference("--model", model, "--tokenizer", DEMO_MODEL)), 1, *fragments)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("convert", "hf", "absent", "q40", "name"), ("absent: there is no such",)),
        (("convert", "tokenizer", GOLDENS / "llama-gqa", "name"), ("llama-gqa", "tokenizer.json")),
        (("info", "absent"), ("absent: there is no such",)),
        (("perplexity", "--model", DEMO_MODEL, "--file", "absent.txt"), ("absent.txt",)),
        (("perplexity", "--file", __file__, "--reference", "absent"), ("absent: there is no such",)),
    ],
    ids=["convert hf", "convert tokenizer", "info", "perplexity", "perplexity --reference"],
)
def test_missing_files(arguments: tuple[object, ...], fragments: tuple[str, ...], tmp_path: Path) -> None:
    fails(run_dllama(*arguments, cwd=tmp_path), 1, *fragments)
    assert list(tmp_path.iterdir()) == []


SETTINGS = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
]
SETTINGS += ["special_tokens_map.json", "chat_template.jinja"]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pipe_by_the_name_of_a_settings_file(tmp_path: Path, name: str) -> None:
    """It held the program up for ever."""
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    fails(run_dllama(*inference("--model", model)), 1, f"{name}: is a pipe, not a file")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_json_of_a_thousand_brackets(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    (model / name).write_text('{"a": ' + "[" * 9000 + "]" * 9000 + "}")
    fails(run_dllama(*inference("--model", model)), 1, f"{name}: is ")


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    done = run_dllama(*inference("--model", GOLDENS / "llama-gqa", "--tokenizer", DEMO_MODEL))
    fails(done, 1, "tokenizer has 2048 tokens", "another model")


def test_a_tokenizer_a_little_larger_than_the_model(tmp_path: Path) -> None:
    """Someone added tokens to the tokenizer alone: the model runs, and texts with such tokens are refused."""
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    more = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append({"id": 2048, "content": "[PAD]", "special": True} | more)
    tokenizer["added_tokens"].append({"id": 2049, "content": "<plain>", "special": False} | more)
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = run_dllama(*inference("--model", model, steps=8))
    assert done.code == 0, done
    assert "the tokenizer has 2 tokens more than the model's 2048" in done.err
    done = run_dllama(*inference("--model", model, "--prompt", "a <plain> text", steps=24))
    assert done.code == 1
    assert "the token id 2049 is outside the model's vocabulary of 2048" in done.err.splitlines()[-1]


def test_dimensions_that_are_no_whole_blocks() -> None:
    """The type that does not fit, the tensor, and the types that do."""
    done = run_dllama(*inference("--model", GOLDENS / "llama-odd", "--tokenizer", DEMO_MODEL))
    fails(done, 2, "llama-odd", "multiples of 32", "f16 or f32")


# Weights that are no numbers


def with_nan(m_file: Path, folder: Path, name: str, element: int) -> Path:
    """A copy whose tensor `name` has a NaN at that element."""
    file = MFile(m_file)
    at = file.header_bytes
    model = alike(config_from_header(file.pairs, m_file), weight_type_of(file.pairs, m_file)).model
    for spec in model:
        if spec.name == name:
            break
        at += spec.n_bytes
    path = folder / "nan.m"
    shutil.copy(m_file, path)
    with path.open("r+b") as spoilt:
        spoilt.seek(at + 4 * element)
        spoilt.write(struct.pack("<f", float("nan")))
    return path


def test_nan_in_the_weights_of_a_directory(tmp_path: Path) -> None:
    """Converting finds it, writes nothing, and names the tensor as the files do."""
    model = tmp_path / "model"
    shutil.copytree(GOLDENS / "llama-gqa", model)
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    name = "model.layers.1.mlp.down_proj.weight"
    struct.pack_into("<H", data, 8 + header_bytes + header[name]["data_offsets"][0] + 20, 0x7FC0)
    weights.write_bytes(data)
    output = tmp_path / "output"
    output.mkdir()
    fails(run_dllama("convert", "hf", model, "q40", "nan", "--output-dir", output), 1, name, "NaN")
    assert list(output.iterdir()) == []


def test_a_text_without_tokens_for_importance(tmp_path: Path) -> None:
    """It left a file of NaN beside the model, which then could not be opened any more."""
    model, output, text = tmp_path / "model", tmp_path / "output", tmp_path / "empty.txt"
    shutil.copytree(DEMO_MODEL, model)
    before = sorted(model.iterdir())
    output.mkdir()
    text.touch()
    convert = ("convert", "hf", model, "q40", "x", "--output-dir", output, "--importance", text)
    fails(run_dllama(*convert), 2, "empty.txt has no tokens")
    assert sorted(model.iterdir()) == before
    assert list(output.iterdir()) == []


def test_a_tokenizer_larger_than_the_model_is_refused_before_anybody_waits(tmp_path: Path) -> None:
    """Importance was collected first, and kept beside a model that was not converted."""
    model = tmp_path / "model"
    shutil.copytree(GOLDENS / "llama-gqa", model)
    for path in DEMO_MODEL.glob("tokenizer*"):
        shutil.copy(path, model)
    before = sorted(model.iterdir())
    done = run_dllama("convert", "hf", model, "iq4nl", "x", "--output-dir", tmp_path)
    fails(done, 1, "the tokenizer has 2048 tokens and the model")
    assert "importance" not in done.err
    assert sorted(model.iterdir()) == before


def test_what_is_given_to_the_wrong_converter(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    fails(run_dllama("convert", "hf", file, "q40", "x"), 2, "model.gguf is no directory", "`convert gguf`")
    fails(run_dllama("convert", "gguf", DEMO_MODEL, "q40", "x"), 2, "is no GGUF file", "`convert hf`")


def test_importance_for_a_type_that_it_is_not_for(tmp_path: Path) -> None:
    convert = ("convert", "hf", GOLDENS / "llama-gqa", "q80", "x", "--output-dir", tmp_path, "--importance")
    fails(
        run_dllama(*convert, tmp_path / "text"),
        2,
        "--importance is for weights that become one of q40, iq4nl, q4k, q6k",
    )
    assert list(tmp_path.iterdir()) == []
    assert run_dllama(*convert, "none").code == 0


def test_a_damaged_importance_is_replaced_where_one_is_asked_for(tmp_path: Path) -> None:
    model, text = tmp_path / "model", tmp_path / "text.txt"
    shutil.copytree(DEMO_MODEL, model)
    (model / "dllama-importance.safetensors").write_bytes(b"{}")
    text.write_text("Once upon a time there was a cat.")
    convert = ("convert", "hf", model, "q40", "x", "--output-dir", tmp_path)
    fails(run_dllama(*convert), 1, "dllama-importance.safetensors: is damaged", "delete it")
    assert run_dllama(*convert, "--importance", text).code == 0
    assert run_dllama(*convert).code == 0


def test_a_file_that_only_dllama_reads(tmp_path: Path) -> None:
    """Is said when it is written, and not written where it is to be for others."""
    convert = ("convert", "hf", GOLDENS / "qwen2-yarn", "f32", "x", "--output-dir", tmp_path)
    fails(
        run_dllama(*convert, "--compatible"),
        1,
        "qwen2-yarn",
        "the architecture qwen2 and YaRN",
        "--compatible",
    )
    assert list(tmp_path.iterdir()) == []
    done = run_dllama(*convert)
    assert done.code == 0
    assert "Distributed Llama refuses a .m file with the architecture qwen2 and YaRN" in done.err
    other = ("convert", "hf", GOLDENS / "llama-gqa", "f32", "y", "--output-dir", tmp_path, "--compatible")
    assert run_dllama(*other).code == 0


# Wrong uses


def demo(*arguments: object) -> list[object]:
    return inference("--model", DEMO_MODEL, *arguments)


WRONG_USES = {
    "no command": ([], "COMMAND"),
    "unknown command": (["infer"], "infer"),
    "unknown flag": (demo("--model-path", "x"), "--model-path"),
    "no steps": (demo("--steps", 0), "--steps", "0"),
    "steps shorter than the prompt": (demo("--steps", 1), "--steps 1", "tokens"),
    "empty prompt": (demo("--prompt", ""), "--prompt is empty"),
    "context beyond the model's": (demo("--max-seq-len", 5000), "--max-seq-len 5000", "1024"),
    "shares of a wrong count": (demo("--shares", 1, 2), "--shares has 2 numbers for 1 node"),
    "a share of zero": (demo("--shares", 0), "--shares", "positive"),
    "workers without a port": (demo("--workers", "host:port"), "--workers", "host:port"),
    "workers with a port too large": (demo("--workers", "host:70000"), "--workers", "host:70000"),
    "no buffer type": (demo("--buffer-float-type", "q4"), "--buffer-float-type", "q80"),
    "temperature": (demo("--temperature", -1), "--temperature", "-1"),
    "topp": (demo("--topp", 2), "--topp", "2"),
    "no threads": (demo("--nthreads", 0), "--nthreads"),
    "too many threads": (demo("--nthreads", 100_000), "--nthreads 100000", "1024"),
    "seed": (demo("--seed", -1), "--seed", "-1"),
    "a worker twice": (demo("--workers", "a:1", "b:1", "a:1"), "--workers names a:1 more than once"),
    "unknown type": (["convert", "hf", ".", "q41", "name"], "q41", "q40"),
    "no output directory": (["convert", "hf", DEMO_MODEL, "q40", "n", "--output-dir", "absent"], "absent"),
    "a slash in a name": (["convert", "tokenizer", DEMO_MODEL, "a/b"], "a/b"),
    "a report nobody can write": (demo("--report", "absent/report.json"), "absent/report.json"),
    "two outputs in one file": (demo("--report", "x.json", "--trace", "./x.json"), "--report and --trace"),
    "logits nobody can write": (demo("--logits", "absent/logits.npy"), "absent/logits.npy"),
    "a port beyond all": (["worker", "--port", 70000], "70000"),
    "a foreign host": (["worker", "--host", "192.0.2.1", "--port", 0], "192.0.2.1", "--host"),
    "no directory for the cache": (
        demo("--kv-cache-storage", "disk", "--kv-cache-dir", "absent"),
        "absent: cannot make a file for the KV cache there (No such file or directory) (--kv-cache-dir)",
    ),
}


@pytest.mark.parametrize("name", WRONG_USES)
def test_wrong_uses(name: str, tmp_path: Path) -> None:
    arguments, *fragments = WRONG_USES[name]
    fails(run_dllama(*arguments, cwd=tmp_path), 2, *fragments)
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_contradicts_the_file(m_file: Path) -> None:
    done = run_dllama(*inference("--model", m_file, "--tokenizer", DEMO_MODEL, "--weights-float-type", "q40"))
    fails(done, 2, "demo_f32.m", "f32, not q40")


def test_a_file_without_tokenizer(m_file: Path) -> None:
    fails(run_dllama(*inference("--model", m_file)), 1, "none is beside it", "--tokenizer")


def test_a_file_with_tokenizers_beside_it(m_file: Path, tmp_path: Path) -> None:
    """One is taken, and it says which; of several none."""
    model = tmp_path / "model.m"
    model.symlink_to(m_file)
    write_t_file(tmp_path / "a.t", convert_tokenizer(DEMO_MODEL))
    arguments = [*inference("--stream", steps=8), "--model"]
    done = run_dllama(*arguments, "model.m", cwd=tmp_path)
    assert done.code == 0, done
    assert "tokenizer: a.t, the only one beside the model" in done.err
    assert done.out == run_dllama(*arguments, model, "--tokenizer", DEMO_MODEL).out
    write_t_file(tmp_path / "b.t", convert_tokenizer(DEMO_MODEL))
    fails(run_dllama(*arguments, model), 1, "several are beside it (a.t, b.t)", "--tokenizer")


def test_a_prompt_longer_than_the_context() -> None:
    fails(
        run_dllama(*demo("--max-seq-len", 4), "--prompt", "word " * 50),
        1,
        "prompt has",
        "context 4",
        "--max-seq-len",
    )


def test_no_such_instruction_set() -> None:
    fails(run_dllama(*demo(), env={"DLLAMA_ISA": "mmx"}), 2, "DLLAMA_ISA=mmx", "scalar")


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_dllama("worker", "--host", "127.0.0.1", "--port", port)
        fails(done, 2, f"port {port} is in use", "--port")


def test_too_many_nodes() -> None:
    done = run_dllama(*demo("--workers", *[f"192.0.2.1:{port}" for port in range(1, 9)]))
    fails(done, 2, "9 nodes", "1 to 8 nodes")


# Memory


def test_more_memory_than_there_is(tmp_path: Path) -> None:
    """A file of a terabyte and more, of holes: the answer comes before anything is read or allocated."""
    demo = open_checkpoint(DEMO_MODEL).config
    numbers = dataclasses.replace(
        alike(demo), dim=16384, ffn_dim=65536, n_layers=400, n_heads=512, weight_type=ElementType.Q80
    )
    path = tmp_path / "huge.m"
    header = encode_header(header_from_config(numbers.config, numbers.weight_type))
    path.write_bytes(header)
    with path.open("r+b") as huge:
        huge.truncate(len(header) + sum(spec.n_bytes for spec in numbers.model))
    done = run_dllama(*inference("--model", path, "--tokenizer", DEMO_MODEL))
    fails(done, 1, "not enough memory", "GB are free", "--max-seq-len", "more or larger nodes")


# Peers


@pytest.fixture(scope="module", autouse=True)
def patient_roots() -> Iterator[dict[str, tuple[str, Running]]]:
    """Roots that wait in vain for ten seconds, beside the tests that are run meanwhile: (address, root)."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port
        addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in (silent, closed)]
        with (
            Running(*demo("--workers", addresses[0])) as first,
            Running(*demo("--workers", addresses[1])) as second,
        ):
            yield {"silent": (addresses[0], first), "closed": (addresses[1], second)}


@pytest.mark.parametrize(
    ("answer", "fragments"),
    [
        (fake_nodes.of_another_version, ("protocol version 999", "same release")),
        (fake_nodes.http_server, ("not a dllama worker", "HTTP/1.1 400")),
        (fake_nodes.with_malformed_welcome, ("malformed Welcome",)),
        (fake_nodes.closes, ("closed the connection",)),
    ],
    ids=["version", "http", "malformed", "closing"],
)
def test_no_worker(answer: Callable[[socket.socket], None], fragments: tuple[str, ...]) -> None:
    with fake_nodes.server(answer) as address:
        fails(run_dllama(*demo("--workers", address)), 1, address, *fragments)


def test_a_name_that_nobody_has() -> None:
    fails(run_dllama(*demo("--workers", "no-such-host.invalid")), 1, "no-such-host.invalid:9998")


def test_a_worker_that_is_not_there(patient_roots: dict[str, tuple[str, Running]]) -> None:
    address, root = patient_roots["closed"]
    fails(
        root.finish(),
        1,
        f"nothing answered at {address} for ",
        " s (connection refused)",
        "dllama worker --port",
    )


def test_a_worker_that_does_not_answer(patient_roots: dict[str, tuple[str, Running]]) -> None:
    address, root = patient_roots["silent"]
    fails(root.finish(), 1, f"{address} did not answer within 10 s")


def test_numbers_in_an_m_file_that_are_none(m_file: Path, tmp_path: Path) -> None:
    model = with_nan(m_file, tmp_path, "layers.2.down", 5)
    done = run_dllama(*inference("--model", model, "--tokenizer", DEMO_MODEL))
    fails(done, 1, "layers.2.down", "NaN")
