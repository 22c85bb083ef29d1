"""What an instruction set's inner loops of Q40 and Q80 products cost on a CPU that is not at hand, as llvm-mca sees it.

    python tools/inner_loops.py avx512 icelake-server --mca llvm-mca-22

Compiles native/<isa>.cpp as the build does, takes the loop over blocks out of each tile shape, and prints its cycles
and how many of the dot-product instructions that the CPU can begin in these cycles it does begin. The first-level cache
holds everything in this model, and branches cost nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

NATIVE = Path(__file__).parents[1] / "native"
FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-tree-reassoc",
    "-fno-tree-ter",
    "-DNDEBUG",
]
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avxvnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-w"],
}
DOT = {"avx2": "vpmaddubsw", "avxvnni": "vpdpbusd", "avx512": "vpdpbusd"}
SHAPE = re.compile(r"^_ZN.*quant_micro.*?(Q[48]0Block)ELi(\d+)ELi(\d+)E.*:$")


def shapes(assembly: str) -> Iterator[tuple[str, int, int, list[str]]]:
    """Block, tokens, tiles and lines of each instance of quant_micro."""
    lines = assembly.splitlines()
    for start, line in enumerate(lines):
        if match := SHAPE.match(line):
            end = next(i for i in range(start, len(lines)) if lines[i].lstrip().startswith(".size"))
            yield match[1], int(match[2]), int(match[3]), lines[start:end]


def loop_with_most(instruction: str, lines: list[str]) -> list[str]:
    """The loop body (from a label to the jump back to it) with the most of `instruction`, none shorter around."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"^\.L\d+:$", line)}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"^\tj\w+\t(\.L\d+)$", line)
        if jump and labels.get(jump[1], i) < i:
            body = [
                one
                for one in lines[labels[jump[1]] : i]
                if one.startswith("\t") and not one.startswith("\t.")
            ]
            loops.append(body)
    count = max(sum(instruction in one for one in body) for body in loops)
    return min((body for body in loops if sum(instruction in one for one in body) == count), key=len)


def simulate(mca: str, cpu: str, body: list[str]) -> float:
    """Cycles of one round of the loop."""
    rounds = 200
    command = [mca, "-mtriple=x86_64", f"-mcpu={cpu}", f"-iterations={rounds}"]
    done = subprocess.run(command, input="\n".join(body), capture_output=True, text=True, check=True)
    cycles = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert cycles is not None, done.stdout
    return int(cycles[1]) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("isa", choices=ISA_FLAGS)
    parser.add_argument("cpu", help="as llvm-mca names it")
    parser.add_argument("--mca", default="llvm-mca")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument(
        "--per-cycle", type=float, default=2, help="dot products that the CPU begins in a cycle"
    )
    args = parser.parse_args()
    source = [str(NATIVE / f"{args.isa}.cpp"), "-S", "-o", "-"]
    command = [args.compiler, *FLAGS, *ISA_FLAGS[args.isa], *source]
    assembly = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for block, n_tokens, n_tiles, lines in shapes(assembly):
        body = loop_with_most(DOT[args.isa], lines)
        cycles = simulate(args.mca, args.cpu, body)
        n_dots = sum(DOT[args.isa] in line for line in body)
        n_stack = sum("(%rsp)" in line or "(%rbp)" in line for line in body)
        print(
            f"{block} {n_tokens} tokens x {n_tiles} tiles: {n_dots} {DOT[args.isa]} of {len(body)} instructions "
            f"({n_stack} on the stack) in {cycles:.1f} cycles, {n_dots / args.per_cycle / cycles:.2f} of the peak"
        )


if __name__ == "__main__":
    main()
