"""`python -m benchmarks`: measure everything, print the tables, write them to a folder.

python -m benchmarks                                all of it, about a quarter of an hour
python -m benchmarks --only table layers --rounds 3
python -m benchmarks --only table --lines CNN GPT --without torch.compile
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import heap

SECTIONS = ("table", "loops", "squares", "layers", "starts", "processes", "scaling", "attention")


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
    parser.add_argument(
        "--lines", nargs="+", default=(), help="lines, loops or rows whose names contain these"
    )
    parser.add_argument("--without", nargs="+", default=(), help="peers to leave out")
    options = parser.parse_args()
    heap.settle("benchmarks")
    run(options)


def run(options: argparse.Namespace) -> None:
    """Measure the sections that are asked for, and print and write what each found."""
    # these import PyTorch, which must see the heap's settings
    from benchmarks import measure, report, sections

    measured = sections.Sections(options.rounds, options.seconds, options.lines, options.without)
    results: report.Results = {"machine": measure.machine()}
    for section in options.only or SECTIONS:
        sections.tell(section)
        results[section] = getattr(measured, section)()
        report.write(results, options.out)
    print(report.text(results))


if __name__ == "__main__":
    main()
