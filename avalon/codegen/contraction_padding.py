"""Taps that fall outside x: which taps are left at each position.

Comes in: a `Problem` of known numbers. Goes out: for each axis, runs of output positions that see
the same taps inside x. Nothing here is specific to a machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from avalon.codegen.contraction_problem import Problem, known

_MOST_KINDS = 27  # kinds of positions: three an axis for a kernel of three taps


@dataclass(frozen=True)
class Run:
    """`outputs` positions of one axis from `first` on, which see `taps` taps from `tap` on."""

    first: int
    outputs: int
    tap: int
    taps: int


def runs_of(problem: Problem, axis: int) -> list[Run]:
    """The positions of an axis, those that see the same taps together.

    >>> from avalon.codegen.contraction_problem import View, convolve_problems
    >>> views = [View(slot, (0,) * 4) for slot in range(3)]
    >>> (problem,) = convolve_problems(
    ...     (1, 1, 1, 5), (1, 1, 1, 3), (1, 1, 1, 5), *views, stride=[1], input_dilation=[1],
    ...     kernel_dilation=[1], low=[1], flip=False)
    >>> [(run.outputs, run.tap, run.taps) for run in runs_of(problem, 2)]
    [(1, 1, 2), (3, 0, 3), (1, 0, 2)]
    """
    size, taps = known(problem.sizes[axis]), known(problem.taps[axis])
    dilation, low = known(problem.dilation[axis]), known(problem.low[axis])
    found: list[Run] = []
    for output in range(known(problem.outputs[axis])):
        start = output * known(problem.stride[axis]) - low
        tap = min(taps, max(0, -(start // dilation)))
        last = min(taps, max(tap, -((start - size) // dilation)))
        if found and (found[-1].tap, found[-1].taps) == (tap, last - tap):
            found[-1] = replace(found[-1], outputs=found[-1].outputs + 1)
        else:
            found.append(Run(output, 1, tap, last - tap))
    return found


def can_skip(problem: Problem) -> bool:
    """Whether a kernel may leave out taps outside x: some are, every position sees others, and
    blocks of the sum hold whole kernels.
    """
    if not problem.pads or problem.lengths[1:] != problem.taps:
        return False
    runs = [runs_of(problem, axis) for axis in range(3)]
    return prod(map(len, runs)) <= _MOST_KINDS and all(run.taps for axis in runs for run in axis)


def useful(problem: Problem, axes: int = 3) -> float:
    """The share of all products whose taps are inside x along the first `axes` axes."""
    inside = [sum(run.outputs * run.taps for run in runs_of(problem, axis)) for axis in range(axes)]
    every = prod(map(known, (*problem.outputs[:axes], *problem.taps[:axes])))
    return prod(inside) / every
