"""`dllama download` against a server that speaks the Hub's API, and that cuts, refuses, lies and damages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from support.fake_hub import FakeFile, FakeHub, answers, cut_after, fake_hub, says
from support.processes import DEMO_MODEL, Finished, run_dllama

REPO = "maker/Demo"
WEIGHTS = "model.safetensors"
LISTED_SMALL = ("config.json", "tokenizer_config.json", "generation_config.json")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """With the demo model as a repository, and things beside it that nobody needs."""
    with fake_hub() as hub:
        names = [path.name for path in DEMO_MODEL.iterdir() if path.is_file()]
        hub.files[REPO] = {
            name: FakeFile((DEMO_MODEL / name).read_bytes(), is_lfs=name not in LISTED_SMALL)
            for name in names
        }
        hub.files[REPO] |= {
            "README.md": FakeFile(b"text", is_lfs=False),
            "pytorch_model.bin": FakeFile(b"x" * 99),
        }
        yield hub


@pytest.fixture
def env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "HF_TOKEN": "",
    }


def download(name: str, env: Mapping[str, str], *flags: object) -> Finished:
    return run_dllama("download", name, *flags, env=env)


def folder_of(env: Mapping[str, str]) -> Path:
    return Path(env["XDG_DATA_HOME"]) / "dllama" / "models" / REPO


def assert_whole(env: Mapping[str, str]) -> None:
    names = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", WEIGHTS}
    assert {path.name for path in folder_of(env).iterdir()} == {*names, "dllama-download.json"}
    for name in names:
        assert (folder_of(env) / name).read_bytes() == (DEMO_MODEL / name).read_bytes()


def test_what_is_downloaded_runs_by_its_name_and_is_not_fetched_twice(
    hub: FakeHub, env: dict[str, str]
) -> None:
    done = download(REPO, env)
    assert done.code == 0, done
    assert done.out == f"{folder_of(env)}\n"
    assert f"{REPO}: the model, 0.0" in done.err
    assert "licence: mit" in done.err
    assert_whole(env)
    n_requests = len(hub.requests)
    again = download(REPO, env)
    told = run_dllama("info", REPO, env=env)
    text = run_dllama(
        "inference",
        "--model",
        REPO,
        "--prompt",
        "Once",
        "--steps",
        4,
        "--nthreads",
        1,
        env=env,
        timeout_s=120,
    )
    assert (again.code, told.code, text.code) == (0, 0, 0), (again, told, text)
    assert again.out == done.out
    assert len(hub.requests) == n_requests


def test_the_hugging_face_cache_is_used(hub: FakeHub, env: dict[str, str]) -> None:
    snapshot = Path(env["HF_HOME"]) / "hub" / "models--maker--Demo" / "snapshots" / ("e" * 40)
    shutil.copytree(DEMO_MODEL, snapshot)
    told = run_dllama("info", REPO, env=env)
    assert told.code == 0, told
    assert download(REPO, env).out == f"{snapshot}\n"
    (snapshot / WEIGHTS).unlink()
    assert run_dllama("info", REPO, env=env).code == 2
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "other.safetensors"}}')
    assert run_dllama("info", REPO, env=env).code == 2
    assert not hub.requests


def test_a_model_that_is_not_here_says_how_to_get_it(hub: FakeHub, env: dict[str, str]) -> None:
    told = run_dllama("info", "--max-seq-len", 64, "maker/Other:Q4_0", env=env)
    assert told.code == 2
    assert told.error_line.endswith(
        "maker/Other:Q4_0: is no file or folder here, and not downloaded; `dllama download maker/Other:Q4_0` does that"
    )
    assert not hub.requests


def test_a_path_that_is_wrong_is_no_name(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for path in ("models/x", "some/file.gguf", "x.m"):
        told = run_dllama("info", path, env=env, cwd=tmp_path)
        assert told.code == 1, told
        assert "no such file or directory" in told.error_line


@pytest.mark.slow
def test_cuts_are_resumed_where_they_were(hub: FakeHub, env: dict[str, str]) -> None:
    hub.faults[WEIGHTS] = [
        cut_after(1000),
        cut_after(0),
        answers(429, Retry_After="0"),
        cut_after(5000),
        answers(503),
    ]
    assert download(REPO, env).code == 0
    assert hub.ranges_of(WEIGHTS) == [f"bytes={start}-" for start in (0, 1000, 1000, 1000, 6000, 6000)]
    assert_whole(env)


def test_what_was_begun_is_gone_on_with_the_next_time(hub: FakeHub, env: dict[str, str]) -> None:
    hub.faults[WEIGHTS] = [cut_after(3000), answers(404)]
    failed = download(REPO, env)
    assert failed.code == 1
    assert failed.error_line.endswith("cannot be fetched: the server answers 404")
    assert download(REPO, env).code == 0
    assert hub.ranges_of(WEIGHTS) == ["bytes=0-", "bytes=3000-", "bytes=3000-"]
    assert_whole(env)


@pytest.mark.slow
def test_what_was_begun_of_another_version_is_not(hub: FakeHub, env: dict[str, str]) -> None:
    good = hub.files[REPO][WEIGHTS]
    hub.files[REPO][WEIGHTS] = FakeFile(good.content[::-1])
    hub.faults[WEIGHTS] = [cut_after(3000), answers(404)]
    assert download(REPO, env).code == 1
    hub.files[REPO][WEIGHTS] = good
    assert download(REPO, env).code == 0
    assert (folder_of(env) / WEIGHTS).read_bytes() == good.content


@pytest.mark.slow
def test_a_server_that_knows_no_ranges(hub: FakeHub, env: dict[str, str]) -> None:
    content = hub.files[REPO][WEIGHTS].content
    hub.faults[WEIGHTS] = [cut_after(1000), says(200, content)]
    assert download(REPO, env).code == 0
    assert_whole(env)


def test_damage_is_found_and_thrown_away(hub: FakeHub, env: dict[str, str]) -> None:
    good = hub.files[REPO][WEIGHTS]
    bad = bytearray(good.content)
    bad[-1] ^= 1
    for name, file in ((WEIGHTS, good), ("config.json", hub.files[REPO]["config.json"])):
        damaged = bytes(bad) if name == WEIGHTS else file.content.replace(b"{", b"[")
        hub.faults[name] = [says(200, damaged)]
        (folder_of(env) / name).unlink(missing_ok=True)
        failed = download(REPO, env)
        assert failed.code == 1
        assert f"{REPO}: {name} arrived damaged" in failed.error_line
        assert not (folder_of(env) / name).exists()
        assert not [*folder_of(env).glob("*.part")]
        assert run_dllama("info", REPO, env=env).code == 2
    assert download(REPO, env).code == 0
    assert_whole(env)


@pytest.mark.slow
@pytest.mark.parametrize("by", [-1, 1])
def test_another_size_than_was_said(hub: FakeHub, env: dict[str, str], by: int) -> None:
    file = hub.files[REPO][WEIGHTS]
    file.size = len(file.content) + by
    failed = download(REPO, env)
    assert failed.code == 1
    assert f"{WEIGHTS} should have {file.size} bytes and the server has" in failed.error_line


def test_a_token_goes_to_the_hub_and_to_no_other_host(hub: FakeHub, env: dict[str, str]) -> None:
    with fake_hub() as storage:
        storage.files = hub.files
        hub.elsewhere = storage.url.replace("127.0.0.1", "localhost")
        assert download(REPO, env | {"HF_TOKEN": "hf_secret"}).code == 0
        assert_whole(env)
        asked = {headers.get("authorization") for path, headers in hub.requests if REPO in path}
        assert asked == {"Bearer hf_secret"}
        assert {headers.get("authorization") for _, headers in storage.requests} == {None}
        assert len(storage.requests) == 5


def test_a_model_whose_licence_has_to_be_agreed_to(hub: FakeHub, env: dict[str, str]) -> None:
    hub.listing = says(403, b"{}", X_Error_Code="GatedRepo")
    without = download(REPO, env).error_line
    assert without.endswith(
        f"{REPO}: its licence has to be agreed to at {hub.url}/{REPO}; then set HF_TOKEN to a token of that account"
    )
    assert "has not agreed to its licence" in download(REPO, env | {"HF_TOKEN": "hf_x"}).error_line
    hub.listing = None
    hub.faults["tokenizer.json"] = [answers(403)]
    assert "tokenizer.json is not for everyone (403)" in download(REPO, env).error_line


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (says(404, b"{}", X_Error_Code="RepoNotFound"), "the Hub has no such model, or it is private"),
        (answers(500), "answers 500 Internal Server Error; try again later"),
        (says(200, b"<html>", Content_Type="text/html"), "answers with no description of a model"),
        (says(200, b"[]", Content_Type="application/json"), "answers with no description of a model"),
        (says(200, b'{"id": "a/b"}', Content_Type="application/json"), "does not say which revision it has"),
    ],
)
def test_answers_that_describe_no_model(
    hub: FakeHub, env: dict[str, str], listing: object, message: str
) -> None:
    hub.listing = listing  # type: ignore[assignment]
    failed = download(REPO, env)
    assert failed.code == 1
    assert message in failed.error_line


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["../config.json", "/etc/config.json", "a/../../b", "a\\b", "a\x1b[2J", "a//b"]
)
def test_names_that_lead_elsewhere(hub: FakeHub, env: dict[str, str], name: str) -> None:
    hub.files[REPO][name] = FakeFile(b"x")
    failed = download(REPO, env)
    assert failed.code == 1
    assert "is no name for a file" in failed.error_line


def test_a_disk_that_is_too_small(hub: FakeHub, env: dict[str, str]) -> None:
    hub.files[REPO][WEIGHTS].size = 1 << 48
    failed = download(REPO, env)
    assert failed.code == 1
    assert "of free disk space" in failed.error_line
    assert not hub.ranges_of(WEIGHTS)


def test_nobody_is_there(env: dict[str, str]) -> None:
    failed = download(REPO, env | {"HF_ENDPOINT": "http://127.0.0.1:1"})
    assert failed.code == 1
    assert "http://127.0.0.1:1 cannot be reached" in failed.error_line
    assert "HF_HUB_OFFLINE forbids" in download(REPO, env | {"HF_HUB_OFFLINE": "1"}).error_line


@pytest.mark.slow
def test_parts_of_a_file_are_joined(hub: FakeHub, env: dict[str, str]) -> None:
    content = np.random.default_rng(3).integers(0, 256, 3_000_000, np.uint8).tobytes()
    parts = {
        f"dllama_model_x_q40_a{letter}": content[i * 10**6 : (i + 1) * 10**6]
        for i, letter in enumerate("abc")
    }
    hub.files[REPO] = {name: FakeFile(part) for name, part in parts.items()}
    hub.files[REPO]["dllama_tokenizer_x.t"] = FakeFile(b"tokens")
    hub.faults["dllama_model_x_q40_ab"] = [cut_after(1000), answers(404)]
    assert download(REPO, env).code == 1
    hub.faults["dllama_model_x_q40_ac"] = [answers(404)]
    assert download(REPO, env).code == 1
    done = download(REPO, env)
    assert done.code == 0
    assert Path(done.out.strip()) == folder_of(env) / "dllama_model_x_q40.m"
    assert Path(done.out.strip()).read_bytes() == content
    assert {path.name for path in folder_of(env).iterdir()} == {
        "dllama_model_x_q40.m", "dllama_tokenizer_x.t", "dllama-download.json",
    }  # fmt: skip
    assert hub.ranges_of("dllama_model_x_q40_aa") == ["bytes=0-"]
    assert hub.ranges_of("dllama_model_x_q40_ab") == ["bytes=0-", "bytes=1000-", "bytes=1000-"]


def test_a_folder_of_ones_own(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    done = download(REPO, env, "--dir", tmp_path / "here" / "demo")
    assert done.out == f"{tmp_path / 'here' / 'demo'}\n"
    assert run_dllama("info", tmp_path / "here" / "demo", env=env).code == 0


def test_the_list_says_what_nodes_need(env: dict[str, str]) -> None:
    done = run_dllama("download", env=env)
    assert done.code == 0
    rows = {row.split()[0]: row.split()[1:] for row in done.out.splitlines() if row.strip()}
    size, *needs = map(float, rows["llama-3.1-8b"])
    assert size == 4.9
    assert needs == sorted(needs, reverse=True)
    assert 4.5 < needs[0] < 7
    assert {"qwen3-30b-a3b", "gemma-3-4b", "llama3_1_405b_instruct_q40", "mistral-7b"} <= set(rows)


def test_what_is_no_name(env: dict[str, str]) -> None:
    failed = download("what/is/that", env)
    assert failed.code == 2
    assert "is no name of a model" in failed.error_line
