"""What a contraction packs next is asked for while it sums: memory is far, and sums leave it idle.

Comes in: the axes along which a side reads its operand for one block of the sum, and how many tiles
are summed in the meantime. Goes out: prefetches, a few after each tile. Guaranteed: nothing but
time depends on it; places past the operand's end are asked for in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

from avalon import dtype as dtypes
from avalon.codegen.contraction_pack import Scratch, split
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.dtype import DType

_LINE = 64  # bytes that come from memory together
_SPARSE = 32  # bytes of a line, at least, that are used where a line is worth asking for
_LONGEST = 64  # lines in a piece: what is asked for at once must not keep the sums waiting


class Fetching:
    """Asks for one block's part of an operand in as many pieces as there are tiles."""

    def __init__(
        self, emit: Emit, scratch: Scratch, source: Pointer, dtype: DType,
        axes: Sequence[tuple[int, int]], tiles: int,
    ) -> None:  # fmt: skip
        self.emit, self.source, self.dtype = emit, source, dtype
        self.per_line = _LINE // dtype.itemsize
        self.first, self.outer, length = stretches(axes, self.per_line)
        stretch_count = prod(extent for extent, _ in self.outer)
        lines = ceil(length / self.per_line) + 1
        self.cuts = max(1, min(tiles // stretch_count, lines), ceil(lines / _LONGEST))
        self.lines = ceil(lines / self.cuts)
        self.per_tile = ceil(stretch_count * self.cuts / tiles)
        self.pieces = stretch_count * self.cuts
        self.counter = scratch.reserve(1, dtypes.int64)
        self.place = emit.constant(0, dtypes.int64)

    def begin(self, place: Value) -> None:
        """Turn to the block whose first element is at `place`."""
        self.place = self.emit.add(place, self.first)
        zero = self.emit.constant(0, dtypes.int64)
        self.emit.store(self.counter, zero, zero)

    def go_on(self) -> None:
        """Ask for the pieces that are due after one more tile."""
        emit, zero = self.emit, self.emit.constant(0, dtypes.int64)
        done = emit.load(self.counter, zero, dtypes.int64)
        due = emit.minimum(emit.add(done, self.per_tile), emit.constant(self.pieces, dtypes.int64))
        with emit.loop(done, due) as piece:
            *where, cut = split(
                emit, piece.index, *(extent for extent, _ in self.outer[1:]), self.cuts
            )
            place = emit.add(self.place, emit.multiply(cut, self.lines * self.per_line))
            for index, (_, stride) in zip(where, self.outer, strict=True):
                place = emit.add(place, emit.multiply(index, stride))
            with emit.loop(0, self.lines, nonempty=True) as line:
                there = emit.add(place, emit.multiply(line.index, self.per_line))
                emit.prefetch(self.source, there, self.dtype)
        emit.store(self.counter, zero, due)


def stretches(
    axes: Sequence[tuple[int, int]], gap: int
) -> tuple[int, list[tuple[int, int]], int]:
    """Axes (extent, stride) as stretches of memory: where the first one begins, the axes that count
    them, and their length. Holes shorter than `gap` belong to a stretch.

    >>> stretches([(8, 1024), (4, 34), (34, 1)], 16)
    (0, [(8, 1024)], 136)
    >>> stretches([(3, -5)], 16)
    (-10, [(1, 0)], 11)
    """
    first, length = 0, 1
    outer: list[tuple[int, int]] = []
    for extent, stride in sorted(axes, key=lambda axis: abs(axis[1])):
        if stride < 0:
            first += (extent - 1) * stride
        if extent == 1 or not stride:
            continue
        if not outer and abs(stride) < length + gap:
            length += (extent - 1) * abs(stride)
        else:
            outer.insert(0, (extent, abs(stride)))
    return first, outer or [(1, 0)], length


def is_worth_it(axes: Sequence[tuple[int, int]], dtype: DType) -> bool:
    """Whether the lines that would be asked for are mostly used."""
    used = prod(extent for extent, stride in axes if stride) * dtype.itemsize
    _, outer, length = stretches(axes, _LINE // dtype.itemsize)
    asked = prod(extent for extent, _ in outer) * (ceil(length * dtype.itemsize / _LINE) + 1)
    return used >= asked * _SPARSE
