"""Arithmetic on shapes: broadcasting, strides, element counts; tuples of int in and out."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from avalon.errors import ShapeError

Shape = tuple[int, ...]


def size_of(shape: Sequence[int]) -> int:
    """Number of elements of a shape."""
    return prod(shape)


def broadcast_shapes(operation: str, *shapes: Shape) -> Shape:
    """The shape that all of `shapes` broadcast to, by NumPy's rules (aligned at the right).

    >>> broadcast_shapes("add", (3, 1), (4,))
    (3, 4)
    """
    rank = max(map(len, shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for axis, extent in enumerate(shape, rank - len(shape)):
            if extent == 1:
                continue
            if result[axis] not in (1, extent):
                listed = " and ".join(map(str, shapes))
                raise ShapeError(
                    f"[{operation}] shapes {listed} do not broadcast: sizes {result[axis]} and "
                    f"{extent} of axis {axis - rank} must be equal, or one of them 1"
                )
            result[axis] = extent
    return tuple(result)


def contiguous_strides(shape: Sequence[int]) -> Shape:
    """Row-major strides, in elements.

    >>> contiguous_strides((2, 3, 4))
    (12, 4, 1)
    """
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


def normalize_axis(operation: str, axis: int, rank: int) -> int:
    """Turn a possibly negative axis into one in [0, rank). A scalar has axes 0 and -1."""
    bound = max(rank, 1)
    if not -bound <= axis < bound:
        raise IndexError(
            f"[{operation}] axis {axis} is out of range: expected one in [{-bound}, {bound - 1}]"
        )
    return axis % bound
