"""`python -m benchmarks`: measure everything, print the table, write it to a folder.

python -m benchmarks                       all of it, a few minutes
python -m benchmarks --rounds 3 --only cnn --no-starts
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# glibc gives freed memory back and takes it anew on each step of PyTorch's CNN, which then varies
# between 13 and 20 ms with the state of the heap. The allocator reads these before main begins.
_HEAP = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
_WORKLOADS = ("cnn", "vae")


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("out/bench"), help="folder for the results"
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each competitor")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of a turn")
    parser.add_argument("--only", choices=_WORKLOADS, help="measure one workload")
    parser.add_argument("--no-starts", action="store_true", help="skip imports and first steps")
    options = parser.parse_args()
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") != _HEAP["MALLOC_TRIM_THRESHOLD_"]:
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | _HEAP)
    run(options)


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for."""
    from benchmarks import cnn, measure, report, starts, vae  # they must see the heap's settings

    results: report.Results = {"machine": measure.machine(), "workloads": {}}
    for name, workload in zip(_WORKLOADS, (cnn, vae), strict=True):
        if options.only not in (None, name):
            continue
        contest = workload.contest()
        for kind in ("train", "predict"):
            print(f"{contest.title}: {kind} ...", file=sys.stderr, flush=True)
            steps = {n: getattr(side, kind) for n, side in contest.competitors.items()}
            turns = measure.take_turns(steps, options.rounds, options.seconds)
            results["workloads"][f"{contest.title}, {kind}"] = report.summarize(turns)
    print("compiled call ...", file=sys.stderr, flush=True)
    results["compiled call"] = starts.call_seconds()
    if not options.no_starts:
        print("first steps and imports ...", file=sys.stderr, flush=True)
        results["first four steps less four steady ones"] = starts.first_steps()
        modules = ("avalon", "torch", "jax")
        results["import"] = {module: starts.import_seconds(module) for module in modules}
    report.write(results, options.out)
    print(report.table(results))


if __name__ == "__main__":
    main()
