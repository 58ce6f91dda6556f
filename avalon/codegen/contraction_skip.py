"""The output positions of a convolution whose taps outside x are left out.

Comes in: as for `contraction_window`. Goes out: `Stream`s whose rows are images at one position,
or positions of one line, and the list of the steps that each position sees, or all of the line may.
Guaranteed: the bits of the sums in which taps outside x are products with +0: those change nothing
unless their weight is infinite or NaN, and a panel of weights that has such elements is summed with
all its taps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from math import prod

from avalon import dtype as dtypes
from avalon.codegen.contraction_pack import Block, Scratch, quotient
from avalon.codegen.contraction_padding import Run, runs_of
from avalon.codegen.contraction_problem import Problem, known
from avalon.codegen.contraction_tile import QUARTER, Stream, summed_in, turned
from avalon.codegen.contraction_window import Box, WindowRows
from avalon.codegen.emit import Emit, Value
from avalon.dtype import DType
from avalon.shape import contiguous_strides


class SkippingRows(WindowRows):
    """Rows whose taps outside x are left out: the innermost loop walks the list of the steps that
    positions of their kind see. Kinds are told apart along the first `told` axes of positions.
    """

    told: int

    def __init__(
        self, emit: Emit, scratch: Scratch, problem: Problem, slot: int, dtype: DType, lanes: int,
        unit: Box, tile: Box,
    ) -> None:  # fmt: skip
        self.scratch = scratch
        self.inner = prod(known(length) for length in problem.lengths[1:])
        super().__init__(emit, scratch, problem, slot, dtype, lanes, unit, tile)
        axes = [runs_of(problem, axis) for axis in range(self.told)]
        self.kinds = [
            emit.table([n for n, run in enumerate(runs) for _ in range(run.outputs)], dtypes.int64)
            for runs in axes
        ]
        self.extents_of_kinds = [len(runs) for runs in axes]
        everything = [Run(0, 0, 0, length) for length in self.lengths[1:]]
        seen = [
            [
                (a * self.lengths[2] + b) * self.lengths[3] + c
                for a, b, c in product(*(range(run.tap, run.tap + run.taps) for run in runs))
            ]
            for runs in (
                *((*kind, *everything[self.told :]) for kind in product(*axes)), everything
            )
        ]  # fmt: skip
        self.longest = self.lengths[0] * self.inner
        self.counts = emit.table([len(taps) for taps in seen], dtypes.int64)
        filled = [taps + [0] * (self.inner - len(taps)) for taps in seen]
        self.taps = emit.table([tap for taps in filled for tap in taps], dtypes.int64)
        self.number = len(seen)
        self.steps_seen = scratch.reserve(self.number * self.longest, dtypes.int64)
        self.picked = self.steps_seen
        self.seen = emit.constant(0, dtypes.int64)
        self.judged = self.steps_seen
        self.sees_all: Value | None = None

    def begin(self) -> None:
        """Prepare what serves the whole call: the steps that each kind of position sees."""
        super().begin()
        emit = self.emit
        with emit.loop(0, self.number) as kind:
            count = emit.load(self.counts, kind.index, dtypes.int64)
            target = emit.multiply(kind.index, self.longest)
            with emit.loop(0, self.lengths[0]) as c, emit.loop(0, count) as t:
                at = emit.add(emit.multiply(kind.index, self.inner), t.index)
                tap = emit.load(self.taps, at, dtypes.int64)
                step = emit.add(emit.multiply(c.index, self.inner), tap)
                at = emit.add(target, emit.add(emit.multiply(c.index, count), t.index))
                emit.store(self.steps_seen, at, step)

    def keep(self, panels: int) -> None:
        """Make room to remember so many panels of weights."""
        self.judged = self.scratch.reserve(panels, dtypes.bool_)

    def remember(self, number: Value) -> None:
        """Remember the panel that was judged last under a number."""
        if self.sees_all is not None:
            self.emit.store(self.judged, number, self.sees_all)

    def recall(self, number: Value) -> None:
        """Turn to the panel that was remembered under a number."""
        if summed_in(self.dtype).is_floating_point:
            self.sees_all = self.emit.load(self.judged, number, dtypes.bool_)

    def judge(self, block: Block, weights: Stream) -> None:
        """Look whether a panel of a block's weights is finite; one that is not sees all taps."""
        emit, dtype = self.emit, summed_in(self.dtype)
        if not dtype.is_floating_point:
            return
        bits = dtypes.uint32 if dtype.itemsize == 4 else dtypes.uint64
        exponent = 0xFF if dtype.itemsize == 4 else 0x7FF
        nothing = emit.constant(0, bits, self.lanes)
        # Without its sign, an infinite or NaN element is the largest among whole numbers.
        with emit.loop(0, block.count, carried=[nothing] * len(weights.parts)) as loop:
            at = weights.position(emit, loop.index)
            largest = []
            for part, held in zip(weights.parts, loop.values, strict=True):
                place = emit.add(at, emit.index(part))
                value = emit.load(weights.pointer, place, dtype, self.lanes)
                largest.append(emit.maximum(held, emit.shift_left(emit.bitcast(value, bits), 1)))
            loop.next(*largest)
        whole = loop.results[0]
        for other in loop.results[1:]:
            whole = emit.maximum(whole, other)
        infinite = emit.constant(exponent << (dtype.itemsize * 8 - exponent.bit_length()), bits)
        ordinary = emit.compare("ult", whole, emit.broadcast(infinite, self.lanes))
        self.sees_all = emit.any_lane(emit.logical_not(ordinary))

    def products(self, block: Block) -> Value:
        """How many products of a block the position sees."""
        return self.emit.multiply(quotient(self.emit, block.count, self.inner), self.seen)

    def _turn_to(self, kind: Value) -> None:
        """Walk the steps of a kind of positions."""
        emit = self.emit
        if self.sees_all is not None:
            everything = emit.constant(self.number - 1, dtypes.int64)
            kind = emit.where(self.sees_all, everything, kind)
        self.seen = emit.load(self.counts, kind, dtypes.int64)
        self.picked = emit.offset(self.steps_seen, emit.multiply(kind, self.longest), dtypes.int64)

    def _kind(self, axis: int, kind: Value, index: Value) -> Value:
        """The kind so far, with what position `index` of the unit along an axis adds to it."""
        emit = self.emit
        # The last unit may reach past the last position.
        last = emit.constant(known(self.problem.outputs[axis]) - 1, dtypes.int64)
        position = emit.minimum(emit.add(self.origin[1 + axis], index), last)
        own = emit.load(self.kinds[axis], position, dtypes.int64)
        return emit.add(emit.multiply(kind, self.extents_of_kinds[axis]), own)


class SkippingLines(SkippingRows):
    """Rows that are positions of one line, which leave out the taps whose lines are outside x."""

    told = 2

    @contextmanager
    def tiles(self) -> Iterator[tuple[Value, Value]]:
        """All tiles: where the first position is in the copy, and in the grid."""
        emit = self.emit
        with ExitStack() as nest:
            place = row = kind = emit.constant(0, dtypes.int64)
            for axis in range(4):
                index = nest.enter_context(
                    emit.loop(0, self.unit[axis], self.tile[axis], nonempty=True)
                ).index
                place = emit.add(place, emit.multiply(index, self.moves[axis]))
                row = emit.add(row, emit.multiply(index, self.grid[axis]))
                if 0 < axis <= self.told:
                    kind = self._kind(axis - 1, kind, index)
                if axis == self.told:
                    self._turn_to(kind)
            yield place, row


class SkippingImages(SkippingRows):
    """Rows that are images at one position."""

    told = 3

    def __init__(
        self, emit: Emit, scratch: Scratch, problem: Problem, slot: int, dtype: DType, lanes: int,
        unit: Box, tile: Box,
    ) -> None:  # fmt: skip
        self.turned = min(
            (n for n in (16, 8, 4, 2) if n <= lanes), key=lambda n: (-(-unit[0] // n) * n, -n)
        )
        super().__init__(emit, scratch, problem, slot, dtype, lanes, unit, tile)

    def layout(self) -> tuple[int, tuple[int, ...]]:
        """Images are innermost, so that the rows of a tile are neighbours."""
        shape = (self.lengths[0], *self.extents, -(-self.unit[0] // self.turned) * self.turned)
        *strides, images = contiguous_strides(shape)
        return prod(shape) + QUARTER * shape[-1], (images, *strides)

    def begin_block(self, block: Block) -> None:
        """Copy what the block's channels and taps see of x, images and positions exchanged."""
        emit, problem = self.emit, self.problem
        n_stride, c_stride, *p_strides = map(known, problem.x_strides[1:])
        starts = self.starts(block)
        channels = quotient(emit, block.count, self.inner)
        last_image = emit.subtract(emit.index(problem.images), 1)
        width = emit.constant(known(problem.sizes[2]), dtypes.int32)
        with ExitStack() as nest:
            n = nest.enter_context(emit.loop(0, self.unit[0], self.turned, nonempty=True)).index
            first = emit.add(self.origin[0], n)
            places = []
            for image in range(self.turned):
                at = emit.minimum(emit.add(first, image), last_image)
                places.append(emit.add(self.place, emit.multiply(at, n_stride)))
            c = nest.enter_context(emit.loop(0, channels, nonempty=True)).index
            moved = emit.multiply(emit.add(block.start[0], c), c_stride)
            target = emit.add(n, emit.multiply(c, self.strides[1]))
            size = width
            for axis in (0, 1):
                y = nest.enter_context(emit.loop(0, self.extents[axis], nonempty=True)).index
                at = emit.add(starts[axis], y)
                extent = emit.constant(known(problem.sizes[axis]), dtypes.int64)
                inside = emit.compare("ult", at, extent)
                size = emit.where(inside, size, emit.constant(0, dtypes.int32))
                moved = emit.add(moved, emit.multiply(at, p_strides[axis]))
                target = emit.add(target, emit.multiply(y, self.strides[2 + axis]))
            # What is copied past a row's end is overwritten by the next row.
            j = nest.enter_context(emit.loop(0, self.extents[2], QUARTER, nonempty=True)).index
            at = emit.add(starts[2], j)
            spread = emit.broadcast(emit.cast(at, dtypes.int32), QUARTER)
            spread = emit.add(spread, emit.iota(QUARTER, dtypes.int32))
            mask = emit.compare("ult", spread, emit.broadcast(size, QUARTER))
            moved = emit.add(moved, emit.multiply(at, p_strides[2]))
            strip = [self._strip(emit.add(place, moved), p_strides[2], mask) for place in places]
            target = emit.add(target, emit.multiply(j, self.strides[4]))
            for column, vector in enumerate(turned(emit, strip)):
                emit.store(self.copy, emit.add(target, column * self.strides[4]), vector)

    def _strip(self, place: Value, stride: int, mask: Value) -> Value:
        """Four positions of an image; what lies outside x is 0."""
        emit = self.emit
        if stride == 1:
            value = emit.load(self.source, place, self.dtype, QUARTER, mask)
        else:
            apart = emit.constants([stride * i for i in range(QUARTER)], dtypes.int64)
            value = emit.gather(
                emit.offset(self.source, place, self.dtype), apart, self.dtype, mask
            )
        return emit.cast(value, summed_in(self.dtype))

    @contextmanager
    def tiles(self) -> Iterator[tuple[Value, Value]]:
        """All tiles: where the first image is in the copy, and in the grid."""
        emit = self.emit
        with ExitStack() as nest:
            place = row = kind = emit.constant(0, dtypes.int64)
            for axis in range(3):
                index = nest.enter_context(emit.loop(0, self.unit[1 + axis], nonempty=True)).index
                place = emit.add(place, emit.multiply(index, self.moves[1 + axis]))
                row = emit.add(row, emit.multiply(index, self.grid[1 + axis]))
                kind = self._kind(axis, kind, index)
            self._turn_to(kind)
            image = nest.enter_context(
                emit.loop(0, self.unit[0], self.tile[0], nonempty=True)
            ).index
            place = emit.add(place, emit.multiply(image, self.moves[0]))
            yield place, emit.add(row, emit.multiply(image, self.grid[0]))
