"""The sections of the benchmarks: which contests each measures, and what it reports of them.

Comes in: how long to measure, which lines, which peers not. Goes out: for each section what
`report` prints and writes. Imports PyTorch, so the heap's settings must be there before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import (
    attention,
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

Found = dict[str, Any]


@dataclass(frozen=True)
class Sections:
    """What measures each section: the method of its name.

    Attributes:
        rounds: turns of each competitor.
        seconds: the length of a turn.
        parts: measure the lines whose names contain one of these; all without any.
        without: peers to leave out.
    """

    rounds: int
    seconds: float
    parts: Sequence[str] = ()
    without: Sequence[str] = ()

    def table(self) -> Found:
        """Every line of the table: the peers' times, and what is asked."""
        return {
            title: {"asked": line.asked, **report.summarize(self._turns(line.steps()))}
            for title in self._chosen(table.LINES)
            for line in [table.LINES[title]]
        }

    def loops(self) -> Found:
        """The loops that users write, against PyTorch eager."""
        return {
            name: report.summarize(self._turns(loops.sides(name)))
            for name in self._chosen(loops.LOOPS)
        }

    def squares(self) -> Found:
        """Square products, and the rates that they reach."""
        found = {}
        for size in squares.SIZES:
            taken = self._turns(squares.steps(size))
            found[str(size)] = {"rate": squares.rates(size, taken), **report.summarize(taken)}
        return found

    def layers(self) -> Found:
        """Every kind of layer, forward and with its gradients."""
        return self._rows({row.name: row for row in layers.ROWS})

    def starts(self) -> Found:
        """First steps in fresh processes."""
        return starts.everything()

    def processes(self) -> Found:
        """Memory, and two trainings side by side."""
        return {
            "peak bytes of a ResNet-18 step": processes.peak_bytes(),
            "share of its lone pace beside another": processes.side_by_side(),
        }

    def scaling(self) -> Found:
        """How times grow with batches, widths and threads."""
        axes = {
            "CNN by batch": scaling.batches(),
            "MLP by width": scaling.widths(),
            "CNN by threads": scaling.threads(len(os.sched_getaffinity(0))),
        }
        return {
            axis: {str(size): report.summarize(one) for size, one in found.items()}
            for axis, found in axes.items()
        }

    def attention(self) -> Found:
        """Attention by its kind and the length of its context, and its memory."""
        lengths = [str(n) for n in attention.LENGTHS]
        return {
            "times": self._rows(attention.rows()),
            "peak bytes of training steps": {
                length: attention.peak_bytes(int(length)) for length in self._chosen(lengths)
            },
        }

    def _rows(self, rows: dict[str, Any]) -> Found:
        """Rows of the layer table, forward and with their gradients."""
        found: Found = {}
        for name in self._chosen(rows):
            for kind, taken in layers.measure_row(rows[name], 5, 0.1).items():
                title = name if kind == "forward" else f"{name} +backward"
                found[title] = taken if isinstance(taken, str) else report.summarize(taken)
        return found

    def _chosen(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if not self.parts or any(part in name for part in self.parts):
                tell(name)
                yield name

    def _turns(self, steps: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        steps = {name: step for name, step in steps.items() if name not in self.without}
        return measure.take_turns(steps, self.rounds, self.seconds)


def tell(what: str) -> None:
    """Say on the error stream what is being measured."""
    print(f"{what} ...", file=sys.stderr, flush=True)
