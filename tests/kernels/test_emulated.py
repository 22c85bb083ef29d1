"""Instruction sets that this machine may lack, emulated, compared with the scalar kernels operation by operation.

AVX-512 runs by way of SIMDe, AVX-VNNI by way of AVX2, NEON under qemu. The comparisons are a C++ program (native/),
because under an emulator there is no Python to call the kernels from. Where a CPU has an instruction set, the other
tests of this directory run on it as well.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dllama.kernels import supported_isas

# Two programs are built, one of them for another processor: minutes, where others work beside it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KERNELS = Path(__file__).parents[2] / "native"
PROGRAM = Path(__file__).parent / "native"
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", f"-I{KERNELS}"]
SHARED = [
    *sorted(PROGRAM.glob("*.cpp")),
    *(KERNELS / f"{name}.cpp" for name in ("cpu", "packed_matrix", "scalar")),
]

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
X86 = {
    "avx2": AVX2,
    "avxvnni": [*AVX2, f"-I{PROGRAM / 'avxvnni_as_avx2'}"],
    # Included first, so that every header knows that registers of 512 bits are emulated (native/peak.h).
    "avx512": [*AVX2, f"-I{PROGRAM / 'simde_as_native'}", "-include", "immintrin.h"],
}
NEON = {
    "neon": ["-march=armv8-a"],
    "neon_dotprod": ["-march=armv8.2-a+dotprod"],
    "neon_i8mm": ["-march=armv8.2-a+dotprod+i8mm"],
}
CROSS_COMPILER, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64"


def run(command: list[str]) -> str:
    """What the command printed; fails with it when the command does."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def build(compiler: str, isas: dict[str, list[str]], directory: Path) -> Path:
    """The comparing program with the kernels of `isas`, each built with its own flags. Two compilers at a time."""
    built = [f"-DDLLAMA_{isa.upper()}" for isa in isas]
    sources: list[tuple[Path, list[str], str]] = [(source, [], f"{source.stem}.o") for source in SHARED]
    sources += [(KERNELS / f"{isa}.cpp", flags, f"{isa}.o") for isa, flags in isas.items()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda s: compile_one(compiler, s[0], [*built, *s[1]], directory / s[2]), sources))
    program = directory / "compare_isa"
    link = ["-static"] if compiler == CROSS_COMPILER else []  # qemu needs no foreign libraries then
    run([compiler, *(str(directory / name) for _, _, name in sources), *link, "-o", str(program)])
    return program


def compile_one(compiler: str, source: Path, flags: list[str], out: Path) -> None:
    run([compiler, *FLAGS, *flags, "-c", str(source), "-o", str(out)])


def has_simde(compiler: str) -> bool:
    source = "#include <simde/x86/avx512.h>\n"
    command = [compiler, "-x", "c++", "-E", "-"]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def x86_isas() -> dict[str, list[str]]:
    """What can be emulated here; the compiler is the one that SIMDe and the product are built with."""
    if platform.machine() not in ("x86_64", "AMD64") or "avx2" not in supported_isas():
        pytest.skip("AVX-512 and AVX-VNNI are emulated on x86-64 with AVX2 only")
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ (Debian: apt-get install g++)")
    return X86 if has_simde("g++") else {isa: flags for isa, flags in X86.items() if isa != "avx512"}


@pytest.fixture(scope="module")
def x86_program(x86_isas: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("g++", x86_isas, tmp_path_factory.mktemp("x86"))


@pytest.fixture(scope="module")
def neon_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool, package in ((CROSS_COMPILER, "g++-aarch64-linux-gnu"), (QEMU, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} (Debian: apt-get install {package})")
    return build(CROSS_COMPILER, NEON, tmp_path_factory.mktemp("neon"))


@pytest.mark.parametrize("isa", list(X86))
def test_x86(x86_isas: dict[str, list[str]], x86_program: Path, isa: str) -> None:
    if isa not in x86_isas:
        pytest.skip("there are no headers of SIMDe (Debian: apt-get install libsimde-dev)")
    assert f"{isa}: 0 of" in run([str(x86_program), isa])


@pytest.mark.parametrize("isa", list(NEON))
def test_neon(neon_program: Path, isa: str) -> None:
    assert f"{isa}: 0 of" in run([QEMU, "-cpu", "max", str(neon_program), isa])


@pytest.mark.parametrize(
    ("cpu", "usable"),
    [
        ("cortex-a53", ["neon", "scalar"]),
        ("cortex-a76", ["neon_dotprod", "neon", "scalar"]),
        ("max", ["neon_i8mm", "neon_dotprod", "neon", "scalar"]),
    ],
)
def test_neon_is_found_where_it_is(neon_program: Path, cpu: str, usable: list[str]) -> None:
    assert run([QEMU, "-cpu", cpu, str(neon_program), "--list"]).split() == usable
