"""The order in which plain reductions combine their elements: the one place that fixes it.

Comes in: an operand's shape and the reduced axes. Goes out: an `Order`, which every tier, fused or
not, follows to the bit. Guaranteed: it depends on shape and axes only, never on strides, threads,
vector width or what is fused around the reduction.

Axes of extent 1 are left out, then neighbouring reduced axes count as one. The rounds of the
innermost reduced axis are cut in blocks; each block is combined alone, from the identity on, and
then joined to the total, block by block, with all outer reduced axes running slower (so errors grow
like the root of the length, not like the length).

- "row": the innermost axis is reduced. `LANES` running values, element i goes to value i % LANES,
  one round is LANES elements; at the end the values are joined in a tree: the first half with the
  second half, until one is left. Values that no element reached are the identity.
- "column": the innermost axis is kept. One running value per result, one round is one element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.shape import size_of
from avalon.size import later, must_be_long

LANES = 32
_ONE_BLOCK = 128  # rounds up to which one block is accurate enough

T = TypeVar("T")


@dataclass(frozen=True)
class Order:
    """`groups`: reduced axes that count as one, outermost first. `block`: rounds of a block."""

    form: str
    groups: tuple[tuple[int, ...], ...]
    extents: tuple[int, ...]
    block: int


def order_of(shape: Sequence[int], axes: Sequence[int]) -> Order:
    """The order of a reduction of an operand of `shape` along `axes`.

    >>> order_of((100, 32, 28, 28), (0, 2, 3)).groups
    ((0,), (2, 3))
    """
    long = [axis for axis, extent in enumerate(shape) if extent != 1]
    groups: list[list[int]] = []
    previous_reduced = False
    for axis in long:
        reduced = axis in axes
        if reduced and previous_reduced:
            groups[-1].append(axis)
        else:
            if groups:  # an axis of one element would not part them
                must_be_long(shape[axis])
            if reduced:
                groups.append([axis])
        previous_reduced = reduced
    form = "row" if previous_reduced else "column"
    extents = tuple(size_of([shape[axis] for axis in group]) for group in groups)
    rounds = extents[-1] if extents else 1
    if form == "row":
        rounds = -(-rounds // LANES)
    return Order(form, tuple(map(tuple, groups)), extents, later(block_of, rounds))


def block_of(rounds: int) -> int:
    """Rounds of one block: all if they are few, else a power of two near their root."""
    if rounds <= _ONE_BLOCK:
        return max(rounds, 1)
    block = _ONE_BLOCK // 2
    while block * block < rounds:
        block *= 2
    return block


def accumulator(dtype: DType, combine: str) -> DType:
    """The type that a reduction runs in: 16-bit floats are summed in float32, rounded once."""
    if dtype in (dtypes.float16, dtypes.bfloat16) and combine in ("add", "multiply"):
        return dtypes.float32
    return dtype


def tree(values: Sequence[T], combine: Callable[[T, T], T]) -> T:
    """Join values as the tree of the "row" form does.

    >>> tree(["a", "b", "c"], lambda x, y: f"({x}{y})")
    '((ac)b)'
    """
    current = list(values)
    half = 1
    while half * 2 < len(current):
        half *= 2
    while half and len(current) > 1:
        for place in range(half, len(current)):
            current[place - half] = combine(current[place - half], current[place])
        del current[half:]
        half //= 2
    return current[0]


def identity_and_combine(primitive: Any, dtype: DType) -> tuple[Any, str]:
    """What the reduction `primitive` starts from, and the primitive that it joins by."""
    identity, combine = primitive.rules["lower"](dtype)
    return identity, combine
