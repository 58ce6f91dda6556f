"""Operands brought into panels: the memory order in which the innermost loop reads them.

Comes in: a bound `Problem`, which of its operands, and a stretch of that operand's parts (output
positions of x, or channels of w). Goes out: `Stream`s for the innermost loop, and for every part
its place in y. Guaranteed: any strides; positions outside x, and parts past the last, are packed as
0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avalon import dtype as dtypes
from avalon.codegen.contraction_problem import Problem
from avalon.codegen.contraction_tile import QUARTER, Stream, summed_in, turned
from avalon.codegen.emit import Emit, Index, Pointer, Value
from avalon.dtype import DType

_OUTSIDE = -(1 << 30)


class Scratch:
    """Hands out stretches of a thread's private memory."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.size = 0

    def reserve(self, elements: int, dtype: DType) -> Pointer:
        """Memory for `elements`, and a vector's width to read past them."""
        start = self.size
        self.size += (elements * dtype.itemsize + 127) // 64 * 64 + 64
        return self._emit.offset(self._emit.scratch, start)


def quotient(emit: Emit, first: Value, second: Index) -> Value:
    """first / second, rounded down, of numbers that are not negative."""
    second = emit.index(second)
    if second.number == 1:
        return first
    if first.number is not None and second.number:
        return emit.constant(int(first.number) // int(second.number), dtypes.int64)
    return emit.binary("udiv", first, second)


def pieces(emit: Emit, extent: Index, size: Index) -> Value:
    """How many runs of `size` cover `extent`."""
    size = emit.index(size)
    return quotient(emit, emit.add(emit.index(extent), emit.subtract(size, 1)), size)


def product(emit: Emit, numbers: Sequence[Index]) -> Value:
    """Their product."""
    total = emit.constant(1, dtypes.int64)
    for number in numbers:
        total = emit.multiply(total, emit.index(number))
    return total


def parts_left(emit: Emit, extent: Index, first: Value, unit: int) -> Value:
    """How many of `extent` parts the unit has that begins at `first`."""
    extent = emit.index(extent)
    if isinstance(extent.number, int) and (extent.number % unit == 0 or extent.number < unit):
        return emit.constant(min(extent.number, unit), dtypes.int64)
    return emit.minimum(emit.subtract(extent, first), emit.constant(unit, dtypes.int64))


def split(emit: Emit, number: Value, *extents: Index) -> list[Value]:
    """The coordinates of a row-major number; the first one takes what the others leave."""
    found = []
    for extent in reversed(extents):
        if emit.index(extent).number == 1:
            found.append(emit.constant(0, dtypes.int64))
            continue
        outer = quotient(emit, number, extent)
        found.append(emit.subtract(number, emit.multiply(outer, emit.index(extent))))
        number = outer
    return [number, *reversed(found)]


@dataclass(frozen=True)
class Block:
    """A box of the sum: where it starts (channel and three taps), and how many products it has."""

    start: tuple[Value, Value, Value, Value]
    count: Value


def block_at(emit: Emit, problem: Problem, number: Value) -> Block:
    """The block with this number."""
    starts, count = [], emit.constant(1, dtypes.int64)
    positions = split(emit, number, *problem.counts[1:])
    lengths = [emit.index(length) for length in problem.lengths]
    extents = [emit.index(extent) for extent in (problem.depth, *problem.taps)]
    for position, length, extent in zip(positions, lengths, extents, strict=True):
        start = emit.multiply(position, length)
        starts.append(start)
        if extent.number is not None and length.number and extent.number % length.number == 0:
            count = emit.multiply(count, length)
        else:
            count = emit.multiply(count, emit.minimum(emit.subtract(extent, start), length))
    return Block((starts[0], starts[1], starts[2], starts[3]), count)


class GatheredSide:
    """Packs one operand element by element, through tables of where its parts and steps are.

    `width` parts make a panel; a unit of work has at most `unit` parts.
    """

    def __init__(
        self, emit: Emit, problem: Problem, is_x: bool, spatial: bool, dtype: DType,
        scratch: Scratch, lanes: int, width: int, unit: int, longest: int,
    ) -> None:  # fmt: skip
        self.emit, self.problem, self.is_x, self.spatial = emit, problem, is_x, spatial
        self.dtype, self.lanes, self.longest = dtype, lanes, longest
        self.width = width
        self.stored = -(-width // lanes) * lanes  # a step of a panel is whole vectors
        self.source = emit.pointer(0 if is_x else 1)
        self.strides = problem.x_strides if is_x else problem.w_strides
        self.has_positions = spatial and is_x
        self.places = scratch.reserve(unit + lanes, dtypes.int64)
        self.results = scratch.reserve(unit + lanes, dtypes.int64)
        self.positions = [
            scratch.reserve(unit + lanes, dtypes.int32) if self.has_positions else self.places
            for _ in range(3)
        ]
        self.steps = scratch.reserve(longest, dtypes.int64) if spatial else None
        self.shifts = [
            scratch.reserve(longest, dtypes.int32) if self.has_positions else self.places
            for _ in range(3)
        ]
        self.panels = scratch.reserve(-(-unit // width) * self.stored * longest, summed_in(dtype))
        self.total = emit.index(problem.channels)
        if is_x:
            self.total = emit.index(problem.images)
            for extent in problem.outputs if spatial else ():
                self.total = emit.multiply(self.total, emit.index(extent))
        self.valid = self.total

    def begin(self) -> None:
        """Fill the tables of the steps inside a block, once a call."""
        if self.steps is None:
            return
        emit, problem = self.emit, self.problem
        moves = [
            emit.multiply(emit.index(stride), emit.index(dilation)) if self.is_x else stride
            for stride, dilation in zip(self.strides[3:], problem.dilation, strict=True)
        ]
        c_length, *t_lengths = problem.lengths
        zero = emit.constant(0, dtypes.int64)
        with emit.loop(0, c_length, carried=(zero,)) as c:
            at = emit.multiply(c.index, emit.index(self.strides[2]))
            with emit.loop(0, t_lengths[0], carried=c.values) as t1:
                at1 = emit.add(at, emit.multiply(t1.index, emit.index(moves[0])))
                with emit.loop(0, t_lengths[1], carried=t1.values) as t2:
                    at2 = emit.add(at1, emit.multiply(t2.index, emit.index(moves[1])))
                    with emit.loop(0, t_lengths[2], carried=t2.values) as t3:
                        at3 = emit.add(at2, emit.multiply(t3.index, emit.index(moves[2])))
                        k = t3.values[0]
                        emit.store(self.steps, k, at3)
                        if self.has_positions:
                            for tap, dilation, shift in zip(
                                (t1.index, t2.index, t3.index), problem.dilation, self.shifts,
                                strict=True,
                            ):  # fmt: skip
                                moved = emit.multiply(tap, emit.index(dilation))
                                emit.store(shift, k, emit.cast(moved, dtypes.int32))
                        t3.next(emit.add(k, 1))
                    t2.next(*t3.results)
                t1.next(*t2.results)
            c.next(*t1.results)

    def begin_unit(self, group: Value, first: Value, unit: int) -> None:
        """Fill the tables of the parts from `first` on."""
        emit, problem = self.emit, self.problem
        rest = emit.subtract(self.total, first)
        self.valid = emit.minimum(rest, emit.constant(unit, dtypes.int64))
        origin = problem.x_offset if self.is_x else problem.w_offset
        place = emit.add(emit.index(origin), emit.multiply(group, emit.index(self.strides[0])))
        y_place = emit.constant(0, dtypes.int64)
        if not self.has_positions:
            axis = problem.y_strides[1 if self.is_x else 2]
            with emit.loop(0, self.valid) as i:
                part = emit.add(first, i.index)
                moved = emit.multiply(part, emit.index(self.strides[1]))
                emit.store(self.places, i.index, emit.add(place, moved))
                emit.store(self.results, i.index, emit.multiply(part, emit.index(axis)))
            return
        begin = split(emit, first, *problem.outputs)
        one, zero = emit.constant(1, dtypes.int64), emit.constant(0, dtypes.int64)
        with emit.loop(0, self.valid, carried=begin) as i:
            n, *where = i.values
            at = emit.add(place, emit.multiply(n, emit.index(self.strides[1])))
            y_at = emit.add(y_place, emit.multiply(n, emit.index(problem.y_strides[1])))
            for axis in range(3):
                coordinate = emit.subtract(
                    emit.multiply(where[axis], emit.index(problem.stride[axis])),
                    emit.index(problem.low[axis]),
                )
                emit.store(self.positions[axis], i.index, emit.cast(coordinate, dtypes.int32))
                at = emit.add(at, emit.multiply(coordinate, emit.index(self.strides[3 + axis])))
                moved = emit.multiply(where[axis], emit.index(problem.y_strides[3 + axis]))
                y_at = emit.add(y_at, moved)
            emit.store(self.places, i.index, at)
            emit.store(self.results, i.index, y_at)
            carry, following = one, []
            for axis in (2, 1, 0):
                raised = emit.add(where[axis], carry)
                full = emit.equal(raised, emit.index(problem.outputs[axis]))
                following.append(emit.where(full, zero, raised))
                carry = emit.where(full, carry, zero)
            i.next(emit.add(n, carry), *reversed(following))

    def begin_block(self, block: Block) -> None:
        """Pack the block's elements of all the unit's parts."""
        emit, problem = self.emit, self.problem
        start = emit.multiply(block.start[0], emit.index(self.strides[2]))
        shifts = []
        for axis in range(3) if self.spatial else ():
            moved = block.start[1 + axis]
            if self.is_x:
                moved = emit.multiply(moved, emit.index(problem.dilation[axis]))
            shifts.append(moved)
            start = emit.add(start, emit.multiply(moved, emit.index(self.strides[3 + axis])))
        source = emit.offset(self.source, start, self.dtype)
        with (
            emit.loop(0, pieces(emit, self.valid, self.width)) as panel,
            emit.loop(0, self.stored, self.lanes) as vector,
        ):
            part = emit.add(emit.multiply(panel.index, self.width), vector.index)
            places = emit.load(self.places, part, dtypes.int64, self.lanes)
            inside = emit.mask_below(emit.subtract(self.valid, part), self.lanes)
            places = emit.where(inside, places, emit.like(places, 0))
            target = emit.add(emit.multiply(panel.index, self.longest * self.stored), vector.index)
            positions = [
                emit.add(
                    emit.load(table, part, dtypes.int32, self.lanes),
                    emit.broadcast(emit.cast(shift, dtypes.int32), self.lanes),
                )
                for table, shift in zip(self.positions, shifts, strict=False)
                if self.has_positions
            ]
            self._pack_vector(source, places, inside, positions, target, block.count)

    def _pack_vector(
        self, source: Pointer, places: Value, inside: Value, positions: list[Value],
        target: Value, count: Value,
    ) -> None:  # fmt: skip
        """Pack the steps of one vector of parts; neighbours in memory are read without a gather,
        and so are parts whose steps are neighbours.
        """
        emit, lanes = self.emit, self.lanes
        first = emit.extract(places, 0)
        expected = emit.add(emit.broadcast(first, lanes), emit.iota(lanes))
        apart = emit.any_lane(emit.bit_and(inside, emit.not_equal(places, expected)))
        begin = emit.constant(0, dtypes.int64)
        if self.steps is None:
            begin = self._turn(source, places, target, count, apart)
        for scattered in (True, False):
            with (
                emit.if_(apart if scattered else emit.logical_not(apart)),
                emit.loop(begin, count) as k,
            ):
                step = self._step(k.index)
                mask = inside
                for axis, position in enumerate(positions):
                    shift = emit.load(self.shifts[axis], k.index, dtypes.int32)
                    moved = emit.add(position, emit.broadcast(shift, lanes))
                    size = emit.cast(emit.index(self.problem.sizes[axis]), dtypes.int32)
                    within = emit.compare("ult", moved, emit.broadcast(size, lanes))
                    mask = emit.bit_and(mask, within)
                if scattered:
                    index = emit.add(places, emit.broadcast(step, lanes))
                    value = emit.gather(source, index, self.dtype, mask)
                else:
                    value = emit.load(source, emit.add(first, step), self.dtype, lanes, mask)
                at = emit.add(target, emit.multiply(k.index, self.stored))
                emit.store(self.panels, at, emit.cast(value, summed_in(self.dtype)))

    def _turn(
        self, source: Pointer, places: Value, target: Value, count: Value, apart: Value
    ) -> Value:
        """Transpose parts that lie apart and whose steps are neighbours; returns how many steps
        are done. Parts past the last read the first, whose elements exist.
        """
        emit, held = self.emit, summed_in(self.dtype)
        whole = emit.bit_and(count, -QUARTER)
        turns = emit.bit_and(apart, emit.equal(emit.index(self.strides[2]), 1))
        with emit.if_(turns, carried=(emit.constant(0, dtypes.int64),)) as branch:
            bases = [emit.extract(places, lane) for lane in range(self.lanes)]
            with emit.loop(0, whole, QUARTER) as k:
                strip = [
                    emit.load(source, emit.add(base, k.index), self.dtype, QUARTER)
                    for base in bases
                ]
                columns = turned(emit, [emit.cast(value, held) for value in strip])
                for step, column in enumerate(columns):
                    number = emit.add(k.index, step)
                    at = emit.add(target, emit.multiply(number, self.stored))
                    emit.store(self.panels, at, column)
            branch.next(whole)
        return branch.results[0]

    def _step(self, k: Value) -> Value:
        if self.steps is not None:
            return self.emit.load(self.steps, k, dtypes.int64)
        return self.emit.multiply(k, self.emit.index(self.strides[2]))

    def stream(self, panel: Value) -> Stream:
        """What the innermost loop reads of one panel."""
        first = self.emit.multiply(panel, self.longest * self.stored)
        return Stream(self.panels, first, range(self.width), self.stored)

    def vectors(self, panel: Value) -> Stream:
        """The same, as vectors."""
        first = self.emit.multiply(panel, self.longest * self.stored)
        return Stream(self.panels, first, range(0, self.width, self.lanes), self.stored)
