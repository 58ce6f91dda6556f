"""`python -m benchmarks`: measure everything, print the tables, write them to a folder.

python -m benchmarks                                all of it, about a quarter of an hour
python -m benchmarks --only table layers --rounds 3
python -m benchmarks --only table --lines CNN GPT --without torch.compile
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import heap

SECTIONS = ("table", "loops", "squares", "layers", "starts", "processes", "scaling")


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/bench"), help="folder for the results"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each competitor")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure some sections")
    parser.add_argument("--lines", nargs="+", help="lines, loops or rows whose names contain these")
    parser.add_argument("--without", nargs="+", default=(), help="peers to leave out")
    options = parser.parse_args()
    heap.settle("benchmarks")
    run(options)


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for."""
    # these must see the heap's settings
    from benchmarks import (
        layers,
        loops,
        measure,
        processes,
        report,
        scaling,
        squares,
        starts,
        table,
    )

    def chosen(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if not options.lines or any(part in name for part in options.lines):
                tell(name)
                yield name

    def turns(steps: dict[str, Callable[[], Any]]) -> Any:
        steps = {name: step for name, step in steps.items() if name not in options.without}
        return measure.take_turns(steps, options.rounds, options.seconds)

    def tables() -> Any:
        return {
            title: {"asked": line.asked, **report.summarize(turns(line.steps()))}
            for title in chosen(table.LINES)
            for line in [table.LINES[title]]
        }

    def all_loops() -> Any:
        return {name: report.summarize(turns(loops.sides(name))) for name in chosen(loops.LOOPS)}

    def all_squares() -> Any:
        found = {}
        for size in squares.SIZES:
            taken = turns(squares.steps(size))
            found[str(size)] = {"rate": squares.rates(size, taken), **report.summarize(taken)}
        return found

    def all_layers() -> Any:
        rows = {row.name: row for row in layers.ROWS}
        found = {}
        for name in chosen(rows):
            for kind, taken in layers.measure_row(rows[name], 5, 0.1).items():
                title = name if kind == "forward" else f"{name} +backward"
                found[title] = taken if isinstance(taken, str) else report.summarize(taken)
        return found

    measured: dict[str, Callable[[], Any]] = {
        "table": tables,
        "loops": all_loops,
        "squares": all_squares,
        "layers": all_layers,
        "starts": starts.everything,
        "processes": lambda: {
            "peak bytes of a ResNet-18 step": processes.peak_bytes(),
            "share of its lone pace beside another": processes.side_by_side(),
        },
        "scaling": lambda: {
            axis: {str(size): report.summarize(one) for size, one in found.items()}
            for axis, found in (
                ("CNN by batch", scaling.batches()),
                ("MLP by width", scaling.widths()),
                ("CNN by threads", scaling.threads(len(os.sched_getaffinity(0)))),
            )
        },
    }
    results: report.Results = {"machine": measure.machine()}
    for section in options.only or SECTIONS:
        tell(section)
        results[section] = measured[section]()
        report.write(results, options.out)
    print(report.text(results))


def tell(what: str) -> None:
    """Say on the error stream what is being measured."""
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
