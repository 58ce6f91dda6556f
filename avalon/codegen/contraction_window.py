"""The output positions of a convolution: a padded copy of the part of x that a unit of work sees.

Comes in: a convolution's `Problem` of known numbers and the box of output positions (images and
three axes) that a unit computes. Goes out: `Stream`s whose parts are constant distances apart: as
rows of the tile, a smaller box of positions; as lanes, vectors along a line of positions.
Guaranteed: what lies outside x is copied as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from math import ceil, prod

from avalon import dtype as dtypes
from avalon.codegen.contraction_pack import Block, Scratch, quotient
from avalon.codegen.contraction_problem import Problem, known
from avalon.codegen.contraction_sides import Steps
from avalon.codegen.contraction_tile import Stream, summed_in
from avalon.codegen.emit import Emit, Value
from avalon.dtype import DType
from avalon.shape import contiguous_strides

_WRITTEN = 4  # vectors of a row that are copied without a loop over them

Box = tuple[int, int, int, int]  # images and three position axes


class WindowSide:
    """Positions of x in boxes of `unit`.

    The copy is row-major over images, channels, and x's three axes; the last may be split in
    `split` interleaved parts, so that neighbouring positions are neighbours though x is walked in
    strides.

    Attributes:
        grid: how far apart positions are kept in the memory of sums, along images and axes.
        count: size of that grid.
        tile_count: tiles of a unit.
    """

    tile_count: int

    def __init__(
        self, emit: Emit, scratch: Scratch, problem: Problem, slot: int, dtype: DType, lanes: int,
        unit: Box, split: int, slack: int,
    ) -> None:  # fmt: skip
        self.emit, self.problem, self.dtype, self.lanes = emit, problem, dtype, lanes
        self.unit, self.split = unit, split
        self.source = emit.pointer(slot)
        self.lengths = problem.room
        self.stride = [known(stride) for stride in problem.stride]
        self.dilation = [known(dilation) for dilation in problem.dilation]
        self.extents = [
            (positions - 1) * stride + (max(taps, 1) - 1) * dilation + 1
            for positions, stride, taps, dilation in zip(
                unit[1:], self.stride, self.lengths[1:], self.dilation, strict=True
            )
        ]
        self.pitch = ceil(self.extents[2] / split)
        size, self.strides = self.layout()
        self.copy = scratch.reserve(size + lanes + slack, summed_in(dtype))
        steps = [d * s for d, s in zip(self.dilation, self.strides[2:], strict=True)]
        across = self._across if split > 1 else None
        self.steps = Steps(emit, scratch, self.lengths, (self.strides[1], *steps), across)
        self.moves = (
            self.strides[0],
            self.stride[0] * self.strides[2],
            self.stride[1] * self.strides[3],
            self.stride[2] * self.strides[4] // split,
        )
        self.grid: Sequence[int] = contiguous_strides(unit)
        self.count = prod(unit)
        self.origin = [emit.constant(0, dtypes.int64)] * 4
        self.place = emit.constant(0, dtypes.int64)

    def layout(self) -> tuple[int, tuple[int, ...]]:
        """How many elements the copy has, and the strides of images, channels and three axes."""
        shape = (self.unit[0], self.lengths[0], *self.extents[:2], self.split * self.pitch)
        return prod(shape), contiguous_strides(shape)

    def _across(self, shift: Value) -> Value:
        """Where in a row of the copy the element `shift` to the right of the row's start is."""
        emit = self.emit
        outer = quotient(emit, shift, self.split)
        inner = emit.subtract(shift, emit.multiply(outer, self.split))
        return emit.add(emit.multiply(inner, self.pitch), outer)

    def begin(self) -> None:
        """Prepare what serves the whole call."""
        self.steps.begin()

    def begin_unit(self, group: Value, origin: list[Value]) -> None:
        """Turn to the box of positions that starts at `origin`."""
        emit = self.emit
        self.origin = origin
        moved = emit.multiply(group, emit.index(self.problem.x_strides[0]))
        self.place = emit.add(moved, emit.index(self.problem.x_offset))

    def starts(self, block: Block) -> list[Value]:
        """The positions of x (perhaps outside) that come first in a block's copy."""
        emit, starts = self.emit, []
        for axis in range(3):
            start = emit.multiply(self.origin[1 + axis], self.stride[axis])
            low = emit.constant(known(self.problem.low[axis]), dtypes.int64)
            moved = emit.multiply(block.start[1 + axis], self.dilation[axis])
            starts.append(emit.add(emit.subtract(start, low), moved))
        return starts

    @property
    def read(self) -> list[tuple[int, int]]:
        """The axes of x that a block walks: extents and strides."""
        n_stride, c_stride, *p_strides = map(known, self.problem.x_strides[1:])
        extents = [
            min(extent, known(size))
            for extent, size in zip(self.extents, self.problem.sizes, strict=True)
        ]
        return [
            (self.unit[0], n_stride), (self.lengths[0], c_stride),
            *zip(extents, p_strides, strict=True),
        ]  # fmt: skip

    def at_block(self, block: Block) -> Value:
        """Where the first element is that a block sees; what lies outside x is taken for inside."""
        emit = self.emit
        n_stride, c_stride, *p_strides = map(known, self.problem.x_strides[1:])
        place = emit.add(self.place, emit.multiply(self.origin[0], n_stride))
        place = emit.add(place, emit.multiply(block.start[0], c_stride))
        for start, stride in zip(self.starts(block), p_strides, strict=True):
            start = emit.maximum(start, emit.constant(0, dtypes.int64))
            place = emit.add(place, emit.multiply(start, stride))
        return place

    def begin_block(self, block: Block) -> None:
        """Copy what the block's channels and taps see of x."""
        emit, problem = self.emit, self.problem
        n_stride, c_stride, *p_strides = map(known, problem.x_strides[1:])
        inner = prod(self.lengths[1:])
        channels = quotient(emit, block.count, inner) if self.lengths[0] > 1 else 1
        starts = self.starts(block)
        with ExitStack() as nest:
            n = nest.enter_context(emit.loop(0, self.unit[0], nonempty=True)).index
            c = nest.enter_context(emit.loop(0, channels, nonempty=True)).index
            image, channel = emit.add(self.origin[0], n), emit.add(block.start[0], c)
            place = emit.add(self.place, emit.multiply(image, n_stride))
            place = emit.add(place, emit.multiply(channel, c_stride))
            target = emit.add(emit.multiply(n, self.strides[0]), emit.multiply(c, self.strides[1]))
            inside = None
            images = emit.index(problem.images)
            if not isinstance(images.number, int) or images.number % self.unit[0]:
                inside = emit.less(image, images)
            for axis in (0, 1):
                size = known(problem.sizes[axis])
                y = nest.enter_context(emit.loop(0, self.extents[axis], nonempty=True)).index
                at = emit.add(starts[axis], y)
                if at.number is None or not 0 <= at.number < size:
                    within = emit.compare("ult", at, emit.constant(size, dtypes.int64))
                    inside = within if inside is None else emit.bit_and(inside, within)
                place = emit.add(place, emit.multiply(at, p_strides[axis]))
                target = emit.add(target, emit.multiply(y, self.strides[2 + axis]))
            for part in range(self.split):
                first, at = emit.add(starts[2], part), emit.add(target, part * self.pitch)
                self._copy_row(place, at, first, p_strides[2], inside)

    def _copy_row(
        self, place: Value, target: Value, start: Value, stride: int, inside: Value | None
    ) -> None:
        """Copy every `split`-th element of a row of x from `start` on."""
        emit, lanes = self.emit, self.lanes
        if isinstance(start.number, int) and self.pitch <= _WRITTEN * lanes:
            for vector in range(0, self.pitch, lanes):
                first = start.number + vector * self.split
                there = self._lanes_inside(first, inside)
                at = emit.add(place, first * stride)
                self._copy_vector(at, emit.add(target, vector), stride, there)
            return
        size = emit.constant(known(self.problem.sizes[2]), dtypes.int32)
        if inside is not None:
            size = emit.where(inside, size, emit.constant(0, dtypes.int32))
        limit = emit.broadcast(size, lanes)
        apart = emit.constants([self.split * lane for lane in range(lanes)], dtypes.int32)
        with emit.loop(0, self.pitch, lanes, nonempty=True) as j:
            following = emit.add(start, emit.multiply(j.index, self.split))
            spread = emit.broadcast(emit.cast(following, dtypes.int32), lanes)
            mask = emit.compare("ult", emit.add(spread, apart), limit)
            at = emit.add(place, emit.multiply(following, stride))
            self._copy_vector(at, emit.add(target, j.index), stride, mask)

    def _lanes_inside(self, first: int, inside: Value | None) -> Value | None:
        """Which lanes of a vector of a row, from element `first` on, are inside x; None: all."""
        emit, lanes, size = self.emit, self.lanes, known(self.problem.sizes[2])
        there = [0 <= first + self.split * lane < size for lane in range(lanes)]
        if not any(there):
            return emit.constant(False, dtypes.bool_, lanes)
        mask = None if all(there) else emit.constants(there, dtypes.bool_)
        if inside is None:
            return mask
        spread = emit.broadcast(inside, lanes)
        return spread if mask is None else emit.bit_and(mask, spread)

    def _copy_vector(self, place: Value, target: Value, stride: int, mask: Value | None) -> None:
        """Copy a vector of a row; lanes past the row's end are overwritten by what is copied
        next.
        """
        emit, lanes, apart = self.emit, self.lanes, self.split * stride
        if mask is not None and mask.number is False:
            value = emit.constant(0, self.dtype, lanes)
        elif apart == 1:
            value = emit.load(self.source, place, self.dtype, lanes, mask)
        else:
            distances = emit.constants([apart * lane for lane in range(lanes)], dtypes.int64)
            base = emit.offset(self.source, place, self.dtype)
            value = emit.gather(base, distances, self.dtype, mask)
        emit.store(self.copy, target, emit.cast(value, summed_in(self.dtype)))


class WindowRows(WindowSide):
    """Positions as rows: `tile` is a box that divides the unit's."""

    def __init__(
        self, emit: Emit, scratch: Scratch, problem: Problem, slot: int, dtype: DType, lanes: int,
        unit: Box, tile: Box,
    ) -> None:  # fmt: skip
        super().__init__(emit, scratch, problem, slot, dtype, lanes, unit, 1, 0)
        self.tile = tile
        self.tile_count = prod(ceil(n / size) for n, size in zip(unit, tile, strict=True))
        boxes = list(product(*map(range, tile)))
        self.parts = [_dot(at, self.moves) for at in boxes]
        self.rows = [_dot(at, self.grid) for at in boxes]

    @contextmanager
    def tiles(self) -> Iterator[tuple[Value, Value]]:
        """All tiles: where the first position is in the copy, and in the grid."""
        emit = self.emit
        with ExitStack() as nest:
            place = row = emit.constant(0, dtypes.int64)
            for axis in range(4):
                index = nest.enter_context(
                    emit.loop(0, self.unit[axis], self.tile[axis], nonempty=True)
                ).index
                place = emit.add(place, emit.multiply(index, self.moves[axis]))
                row = emit.add(row, emit.multiply(index, self.grid[axis]))
            yield place, row

    def stream(self, place: Value) -> Stream:
        """What the innermost loop reads of one tile."""
        return Stream(self.copy, place, self.parts, self.steps.step, self.steps.table)


class WindowLanes(WindowSide):
    """Positions as lanes: `vectors` along lines of positions, a line being one row of positions or,
    if `is_flat`, all rows of the copy one after another (with what lies between them).
    """

    def __init__(
        self, emit: Emit, scratch: Scratch, problem: Problem, slot: int, dtype: DType, lanes: int,
        unit: Box, vectors: int, is_flat: bool,
    ) -> None:  # fmt: skip
        split, panel = known(problem.stride[2]), vectors * lanes
        super().__init__(emit, scratch, problem, slot, dtype, lanes, unit, split, panel)
        self.panel, self.is_flat = panel, is_flat
        line = unit[3] + (unit[2] - 1) * self.strides[3] if is_flat else unit[3]
        self.line = ceil(line / panel) * panel
        self.lines = unit[:2] if is_flat else unit[:3]
        along = (self.strides[3], 1) if is_flat else (1,)
        self.grid = [s * self.line for s in contiguous_strides(self.lines)] + list(along)
        self.count = prod(self.lines) * self.line
        self.tile_count = self.count // panel

    @contextmanager
    def tiles(self) -> Iterator[tuple[Value, Value]]:
        """All tiles: where the first position is in the copy, and in the grid."""
        emit = self.emit
        with ExitStack() as nest:
            place = column = emit.constant(0, dtypes.int64)
            for axis, extent in enumerate(self.lines):
                index = nest.enter_context(emit.loop(0, extent, nonempty=True)).index
                place = emit.add(place, emit.multiply(index, self.moves[axis]))
                column = emit.add(column, emit.multiply(index, self.grid[axis]))
            along = nest.enter_context(emit.loop(0, self.line, self.panel, nonempty=True)).index
            yield emit.add(place, along), emit.add(column, along)

    def stream(self, place: Value) -> Stream:
        """What the innermost loop reads of one tile."""
        parts = range(0, self.panel, self.lanes)
        return Stream(self.copy, place, parts, self.steps.step, self.steps.table)


def _dot(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(first, second, strict=True))
