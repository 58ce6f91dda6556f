"""Running sums and products along rows: one kernel a type and direction, for every shape.

Comes in: the element type, what joins two elements, and the direction. Goes out: a kernel that
writes the running totals of each row, whose elements are neighbours. Guaranteed: a row is one chain
from its first element (its last, in reverse) on, in the accumulator's type, rounded to the
element's where it is stored: the bits of the nest that runs one element after the other.

A chain waits for each addition, so rows run side by side: a tile of as many rows as a vector has
lanes is turned around, added up column by column, and turned back. Fewer rows go one by one.

Slots: x, the result, then the extent of a row and the number of rows. A unit is a tile of rows, or
a row if there are too few.
"""

from __future__ import annotations

from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel
from avalon.schedule.order import accumulator


def tile_of(target: Target, dtype: DType) -> int:
    """How many rows run side by side."""
    return max(2, 4 * target.lanes // max(accumulator(dtype, "add").itemsize, 4))


def cumulative_kernel(target: Target, dtype: DType, combine: str, reverse: bool) -> Kernel:
    """The kernel for elements of `dtype` joined by `combine`, "add" or "multiply"."""
    direction = "reverse" if reverse else "forward"
    emit = Emit(f"cumulative_{combine}_{dtype.name}_{direction}", target)
    _Cumulative(emit, dtype, combine, reverse, tile_of(target, dtype)).write()
    return Kernel(emit.symbol, emit.finish())


class _Cumulative:
    """Writes one kernel."""

    def __init__(self, emit: Emit, dtype: DType, combine: str, reverse: bool, tile: int) -> None:
        self.emit = emit
        self.dtype = dtype
        self.wide = accumulator(dtype, combine)
        self.combine = combine
        self.reverse = reverse
        self.tile = tile
        self.x, self.result = emit.pointer(0), emit.pointer(1)
        self.extent, self.rows = emit.integer(2), emit.integer(3)

    def write(self) -> None:
        emit, tile = self.emit, self.emit.index(self.tile)
        with emit.if_(emit.less_equal(tile, self.rows)):
            last = emit.subtract(self.rows, tile)
            with emit.loop(emit.begin, emit.end) as unit:
                # The last tile starts earlier, and does some rows again.
                first = emit.minimum(emit.multiply(unit.index, tile), last)
                self.tile_of_rows(emit.multiply(first, self.extent))
        with emit.if_(emit.less(self.rows, tile)), emit.loop(emit.begin, emit.end) as unit:
            self.row(emit.multiply(unit.index, self.extent))

    def first(self, lanes: int) -> Value:
        """What leaves every element as it is, the sign of a zero too."""
        number = 1 if self.combine == "multiply" else -0.0 if self.wide.is_floating_point else 0
        return self.emit.constant(number, self.wide, lanes)

    def join(self, before: Value, here: Value) -> Value:
        joined = getattr(self.emit, self.combine)(before, here)
        assert isinstance(joined, Value)
        return joined

    def row(self, start: Value) -> None:
        """One row, element by element."""
        emit = self.emit
        last = emit.subtract(self.extent, 1)
        with emit.loop(0, self.extent, carried=(self.first(1),)) as place:
            step = emit.subtract(last, place.index) if self.reverse else place.index
            at = emit.add(start, step)
            here = emit.cast(emit.load(self.x, at, self.dtype), self.wide)
            total = self.join(place.values[0], here)
            emit.store(self.result, at, emit.cast(total, self.dtype))
            place.next(total)

    def tile_of_rows(self, start: Value) -> None:
        """A tile of rows, a square of it at a time."""
        emit, tile = self.emit, self.tile
        rest = emit.bit_and(self.extent, tile - 1)
        whole = emit.subtract(self.extent, rest)
        totals = self.first(tile)
        partial = emit.less(emit.index(0), rest)
        if self.reverse:
            with emit.if_(partial, carried=(totals,)) as branch:
                branch.next(self.square(start, whole, rest, totals))
            last = emit.subtract(whole, tile)
            with emit.loop(0, whole, tile, carried=branch.results) as square:
                place = emit.subtract(last, square.index)
                square.next(self.square(start, place, None, square.values[0]))
            return
        with emit.loop(0, whole, tile, carried=(totals,)) as square:
            square.next(self.square(start, square.index, None, square.values[0]))
        with emit.if_(partial):
            self.square(start, whole, rest, square.results[0])

    def square(self, start: Value, place: Value, count: Value | None, totals: Value) -> Value:
        """`tile` rows of `tile` elements (the first `count` of them) from `place` on; returns the
        totals after them.
        """
        emit, tile = self.emit, self.tile
        mask = None if count is None else emit.mask_below(count, tile)
        inside = self.inside(self.x, start, place)
        sources = [self.load(inside, row, mask) for row in range(tile)]
        columns = emit.transpose([emit.cast(source, self.wide) for source in sources])
        for step in range(tile - 1, -1, -1) if self.reverse else range(tile):
            joined = self.join(totals, columns[step])
            if count is not None and self.reverse:
                exists = emit.less(emit.index(step), count)
                joined = emit.where(emit.broadcast(exists, tile), joined, totals)
            columns[step] = totals = joined
        target = self.inside(self.result, start, place)
        for row, value in enumerate(emit.transpose(columns)):
            at = emit.multiply(self.extent, row)
            emit.store(target, at, emit.cast(value, self.dtype), mask)
        return totals

    def inside(self, pointer: Pointer, start: Value, place: Value) -> Pointer:
        return self.emit.offset(pointer, self.emit.add(start, place), self.dtype)

    def load(self, pointer: Pointer, row: int, mask: Value | None) -> Value:
        at = self.emit.multiply(self.extent, row)
        return self.emit.load(pointer, at, self.dtype, self.tile, mask)
