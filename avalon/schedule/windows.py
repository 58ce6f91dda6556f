"""Nests that read a contraction's result through windows that do not overlap, as pooling does.

Comes in: a result's shape, and the loops and loads of a nest. Goes out: how the loops walk the
result, or None where they do not walk it in windows. Guaranteed: every element that one round reads
lies in a box of its own, `steps` large, so that a box of whole windows is all that the rounds of
these windows need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avalon.schedule.index import Affine, Axis
from avalon.schedule.loops import Load
from avalon.shape import contiguous_strides, size_of


@dataclass(frozen=True)
class Walk:
    """How loops walk an array.

    Attributes:
        extents: rounds along each axis of the array.
        steps: how far one round is from the next along it.
        groups: for each loop, outermost first, the neighbouring axes that it walks.
    """

    extents: tuple[int, ...]
    steps: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]


def whole(shape: tuple[int, ...], groups: tuple[tuple[int, ...], ...]) -> Walk:
    """The walk that meets every element by itself."""
    return Walk(shape, (1,) * len(shape), groups)


def walk_of(shape: tuple[int, ...], axes: Sequence[Axis], loads: Sequence[Load]) -> Walk | None:
    """The walk of loops whose rounds read at `loads`, all of it along the first three axes (those
    that are no positions).

    >>> rows, lanes = Axis(0, 6), Axis(1, 4)
    >>> load = Load(0, None, Affine({rows: 16, lanes: 2}, 9), ())
    >>> walk_of((1, 1, 2, 6, 8), [rows, lanes], [load]).steps
    (1, 1, 1, 2, 2)
    """
    forms = [load.index for load in loads]
    if not forms or any(load.guards for load in loads):
        return None
    walk = _walk(shape, axes, forms[0])
    if walk is None or walk.extents[:3] != shape[:3]:
        return None
    for form in forms:
        same_moves = form.terms == forms[0].terms
        if not same_moves or not _stays(shape, walk, form.offset):
            return None
    return walk


def _walk(shape: tuple[int, ...], axes: Sequence[Axis], form: Affine) -> Walk | None:
    """Match loops with axes, both from the innermost on."""
    strides = contiguous_strides(shape)
    extents, steps = [1] * len(shape), [1] * len(shape)
    groups: list[tuple[int, ...]] = []
    if set(form.terms) != {axis for axis in axes if axis.extent > 1}:
        return None
    axis = len(shape) - 1
    for loop in reversed(axes):
        last, left, moved = axis, loop.extent, form.coefficient(loop)
        while left > 1:
            if axis < 0 or not isinstance(moved, int):
                return None
            step = moved // strides[axis]
            if step < 1 or moved % strides[axis]:
                return None
            if step >= shape[axis]:
                steps[axis] = shape[axis]  # one window takes in the whole axis
            else:
                rounds = left if (left - 1) * step < shape[axis] else shape[axis] // step
                if left % rounds or (rounds < left and shape[axis] % step):
                    return None
                extents[axis], steps[axis] = rounds, step
                left, moved = left // rounds, moved * rounds
            axis -= 1
        groups.append(tuple(range(axis + 1, last + 1)))
    if size_of(shape[: axis + 1]) != 1 or not groups:
        return None
    groups[-1] = (*range(axis + 1), *groups[-1])
    return Walk(tuple(extents), tuple(steps), tuple(reversed(groups)))


def _stays(shape: tuple[int, ...], walk: Walk, offset: Any) -> bool:
    """Whether what lies `offset` after a round's first element is in the round's own box."""
    for inside, step, extent, rounds in zip(
        coordinates(shape, offset), walk.steps, shape, walk.extents, strict=True
    ):
        if not 0 <= inside < step or (rounds - 1) * step + inside >= extent:
            return False
    return True


def coordinates(shape: tuple[int, ...], offset: int) -> tuple[int, ...]:
    """The coordinates of an element by its number in row-major order."""
    found = []
    for stride in contiguous_strides(shape):
        found.append(offset // stride)
        offset %= stride
    return tuple(found)
