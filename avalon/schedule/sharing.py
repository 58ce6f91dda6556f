"""Whether a hot program for many sizes is worth sharing: what its kernels lose by it.

Comes in: a schedule of a graph in which some extents are symbols. Goes out: yes or no. Guaranteed:
nothing; either way is right. Contractions whose rows, columns or summed channels are open are as
fast as others; where nothing is known, one kernel serves all and takes about 1.6 times as long.
Rows of a softmax are swept once more for each of its steps if their length is open.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from avalon.schedule.pull import lowering_of
from avalon.schedule.steps import AnyStep, LibraryStep, LoopStep, Schedule
from avalon.size import hint

# Multiplications and additions in kernels that serve all shapes, for each step of a schedule: what
# they lose in a thousand calls is what building the step's kernel costs.
_MOST_SLOWED = 1 << 22
# What one core computes while an element goes to memory and comes back.
_SWEEP = 32


def is_worth_sharing(schedule: Schedule) -> bool:
    """Whether the program loses less in a thousand calls than another build costs."""
    steps = list(_all_steps(schedule.steps))
    lost = sum(map(_slowed, steps)) + _SWEEP * schedule.swept_again
    return lost <= _MOST_SLOWED * len(steps)


def _all_steps(steps: Iterable[AnyStep]) -> Iterable[AnyStep]:
    """The steps, and those inside loops."""
    for step in steps:
        yield step
        if isinstance(step, LoopStep):
            for part in step.parts.values():
                yield from _all_steps(part.steps)


def _slowed(step: AnyStep) -> int:
    """The arithmetic of a contraction of which nothing is known."""
    if not (isinstance(step, LibraryStep) and step.generic):
        return 0
    name = lowering_of(step.call.primitive)
    if name not in ("contract", "convolve"):
        return 0
    second = step.call.operands[1]
    summed: Any = second.shape[1] if name == "contract" else prod(second.shape[2:])
    found: int = hint(2 * prod(step.call.shape) * summed)
    return found
