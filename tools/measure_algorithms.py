"""What `--all-reduce auto` chooses, beside both algorithms, on a virtual switch. Run it as root.

    python tools/measure_algorithms.py --nodes 4 --rate 100mbit [--rounds 5] [--layers 2]

Each round measures all three in turn, in another order each time; a ratio is that of neighbours in time, and the
median of them counts. Most of the time goes into loading over the slow links.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import testbed

ALGORITHMS = ("direct", "scattered", "auto")
PHASES = ("prefill", "decode")


def measure(
    bed: testbed.Bed, addresses: list[str], algorithm: str, args: argparse.Namespace
) -> dict[str, float]:
    """Tokens a second of each phase."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder) / "numbers.json"
        command = [
            sys.executable, "-m", "dllama", "bench", "--shape", args.shape, "--layers", args.layers, "--nthreads", 1,
            "--prompt", args.prompt, "--gen", args.gen, "--repeat", 2, "--all-reduce", algorithm, "--json", numbers,
            "--workers", *addresses,
        ]  # fmt: skip
        subprocess.run(bed.command(0, *command), check=True, capture_output=True)
        values = json.loads(numbers.read_text())
    return {phase: values[f"{phase}_tok_per_s"] for phase in PHASES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--gen", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    measured: list[dict[str, dict[str, float]]] = []
    with testbed.Bed(args.nodes, args.rate) as bed, testbed.workers(bed, "--nthreads", 1) as addresses:
        for round_ in range(args.rounds):
            first = round_ % len(ALGORITHMS)
            order = ALGORITHMS[first:] + ALGORITHMS[:first]
            measured.append({algorithm: measure(bed, addresses, algorithm, args) for algorithm in order})
    print(f"{args.nodes} nodes, {args.rate}")
    for phase in PHASES:
        speeds = {name: [one[name][phase] for one in measured] for name in ALGORITHMS}
        medians = ", ".join(
            f"{name} {statistics.median(of):.1f} ({min(of):.1f} to {max(of):.1f})"
            for name, of in speeds.items()
        )
        better = max(ALGORITHMS[:2], key=lambda name: statistics.median(speeds[name]))
        ratios = sorted(auto / other for auto, other in zip(speeds["auto"], speeds[better], strict=True))
        print(
            f"{phase}, tokens/s: {medians}; auto beside {better}: {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
