"""How PyTorch would lay out the elements of results: strides, which users can see.

Comes in: shapes and the strides of operands. Goes out: strides, in elements. Guaranteed: results of
elementwise operations, copies and index arrays have the strides that PyTorch's iterator gives them,
which decides what is a view and what a copy further on. The real layout is the compiler's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from avalon.shape import Shape, contiguous_strides

plain_strides = lru_cache(maxsize=4096)(contiguous_strides)


def elementwise_strides(shape: Shape, operands: Sequence[Any], alike: bool = True) -> Shape:
    """The strides that PyTorch's iterator gives the result: axes in the order of the operands'
    strides, the first operand that tells two axes apart deciding. `alike`: no operand has another
    shape.
    """
    rank = len(shape)
    plain = plain_strides(shape)
    if rank < 2 or 0 in shape:
        return plain
    if alike and all(operand.shape == shape for operand in operands):
        if all(operand.is_contiguous() for operand in operands):
            return plain
        channels = channels_last_strides(shape)
        if channels and all(follows(operand, channels) for operand in operands):
            return channels
        first: Shape = operands[0].stride()
        if all(operand.stride() == first for operand in operands) and is_dense(shape, first):
            return first
    return iterated_strides(shape, [spread_strides(x.shape, x.stride(), shape) for x in operands])


def spread_strides(shape: Shape, strides: Shape, wanted: Shape) -> Shape:
    """The strides of something broadcast to another shape: 0 where it repeats."""
    added = len(wanted) - len(shape)
    return (0,) * added + tuple([
        0 if extent == 1 and size != 1 else step
        for extent, step, size in zip(shape, strides, wanted[added:], strict=True)
    ])  # fmt: skip


def iterated_strides(shape: Shape, steps: Sequence[Shape]) -> Shape:
    """The strides of a result of `shape` whose axes are in the order of the operands' strides."""
    order = list(reversed(range(len(shape))))  # fastest axis first

    def compare(one: int, other: int) -> int:
        for strides in steps:
            a, b = strides[one], strides[other]
            if a == 0 or b == 0:
                continue
            if a != b:
                return -1 if a < b else 1
            if shape[one] > shape[other]:
                return 1
        return 0

    for start in range(1, len(shape)):
        place = start
        for before in reversed(range(start)):
            wanted = compare(order[before], order[place])
            if wanted > 0:
                order[before], order[place] = order[place], order[before]
                place = before
            elif wanted < 0:
                break
    result, step = [0] * len(shape), 1
    for axis in order:
        result[axis] = step
        step *= shape[axis]
    return tuple(result)


def channels_last_strides(shape: Shape) -> Shape | None:
    """The strides of images whose channels lie next to each other, which PyTorch keeps."""
    if len(shape) != 4:
        return None
    _, channels, height, width = shape
    return channels * height * width, 1, width * channels, channels


def follows(x: Any, strides: Shape) -> bool:
    """True if `x` has these strides wherever a stride matters."""
    pairs = zip(x.stride(), strides, x.shape, strict=True)
    return all(own == wanted or extent == 1 for own, wanted, extent in pairs)


def preserved_strides(x: Any) -> Shape:
    """The strides of a copy of `x`."""
    strides: Shape = x.stride()
    return strides if is_dense(x.shape, strides) else elementwise_strides(x.shape, [x], False)


def is_dense(shape: Shape, strides: Shape) -> bool:
    """True if the elements fill a stretch of storage without gaps or overlaps."""
    expected = 1
    for step, extent in sorted(
        (step, extent) for step, extent in zip(strides, shape, strict=True) if extent != 1
    ):
        if step != expected:
            return False
        expected *= extent
    return True
