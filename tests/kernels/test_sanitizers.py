"""The C++ below the binding, built with sanitizers: addresses and undefined behaviour, and races between threads."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
DRIVER = Path(__file__).parent / "sanitized" / "every_operation.cpp"
PORTABLE = [
    "attention_op",
    "candidates_op",
    "cpu",
    "delta_op",
    "experts_op",
    "latent_op",
    "merge_candidates",
    "ops",
    "packed_matrix",
    "router_op",
    "scalar",
    "thread_pool",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
ON_X86 = platform.machine() in ("x86_64", "AMD64")


def compile_to(out: Path, sources: list[Path], flags: list[str]) -> None:
    assert COMPILER is not None
    common = ["-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-fno-sanitize-recover=all", f"-I{NATIVE}"]
    command = [COMPILER, *common, *flags, *map(str, sources), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_no_sanitizer_complains(tmp_path: Path, sanitizers: str) -> None:
    flags = [f"-fsanitize={sanitizers}", "-pthread"]
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    try:
        compile_to(tmp_path / "probe", [probe], flags)
    except AssertionError:
        pytest.skip(f"the compiler has no -fsanitize={sanitizers}")
    with_avx2 = ON_X86 and "address" in sanitizers  # races are in the portable files
    sources = [NATIVE / f"{name}.cpp" for name in PORTABLE] + [DRIVER]
    if with_avx2:
        compile_to(tmp_path / "avx2.o", [NATIVE / "avx2.cpp"], ["-c", *flags, *AVX2])
        sources.append(tmp_path / "avx2.o")
        flags.append("-DDLLAMA_AVX2")
    compile_to(tmp_path / "driver", sources, flags)
    done = subprocess.run([tmp_path / "driver"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scalar" in done.stdout
