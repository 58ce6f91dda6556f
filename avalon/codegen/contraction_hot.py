"""The kernel of one contraction with its sizes as constants, and the work after it fused in.

Comes in: a `Problem`, a `Schedule`, the slots of x, w and y, and, if asked, an epilogue. Goes out:
a kernel. Guaranteed: the same bits for every schedule. Numbers of the problem that are formulas
are arguments of the kernel: how many rows there are, columns, channels of the sum, and the strides
that follow from them; those of the tile's rows and lanes are known.

A unit of work computes a box of y: for every block of the sum it packs what it needs of both
operands, runs the tile over the box, and adds the block's sums to those before, in private memory.
Then a loop over that memory hands the finished elements to the epilogue, lanes along y's last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from math import prod

from avalon import dtype as dtypes
from avalon.codegen.contraction_boxes import WindowBoxes, Windows
from avalon.codegen.contraction_fetch import Fetching, is_worth_it
from avalon.codegen.contraction_pack import (
    Block,
    Scratch,
    block_at,
    parts_left,
    pieces,
    product,
    quotient,
    split,
)
from avalon.codegen.contraction_problem import Problem, known
from avalon.codegen.contraction_sides import DirectSide, Operand, PackedSide
from avalon.codegen.contraction_skip import SkippingImages, SkippingLines, SkippingRows
from avalon.codegen.contraction_store import Epilogue, Results
from avalon.codegen.contraction_tile import (
    Stream,
    add_into,
    lanes_of,
    summed_in,
    sums,
    turn_into,
    turned_sums,
)
from avalon.codegen.contraction_window import Box, WindowLanes, WindowRows, WindowSide
from avalon.codegen.emit import Emit, Index, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel
from avalon.size import few, is_open

_LONG_ENOUGH = 24  # products, from which on the tile takes longer than storing its scattered rows
_FAR = 256 << 10  # bytes of an operand from which on it is asked for before it is packed


@dataclass(frozen=True)
class Schedule:
    """How a contraction is cut.

    Attributes:
        x_in_lanes: whether the lanes run along x's parts (and the rows along w's) or the reverse.
        rows, vectors: the tile of sums in registers.
        x_unit: parts of x in a unit of work, where they lie on one axis: a matrix product.
        box: the box of output positions in a unit, instead, for a convolution.
        w_unit: parts of w in a unit.
        tile: the smaller box that is a tile, where positions are rows.
        is_flat: whether lanes run on from one row of positions to the next.
        pack_rows, pack_lanes: whether an operand with one axis of parts is copied into panels.
        turn_lanes: whether lanes that are read in place are turned on their way: few rows.
        resident: whether the packed lanes of all blocks stay until a unit needs others.
        skips: whether taps outside x are left out; a tile is several images at one position then,
            or positions of one line.
    """

    x_in_lanes: bool
    rows: int
    vectors: int
    w_unit: int
    x_unit: int = 0
    box: Box | None = None
    tile: Box | None = None
    is_flat: bool = False
    pack_rows: bool = False
    pack_lanes: bool = True
    turn_lanes: bool = False
    resident: bool = False
    skips: bool = False


@dataclass(frozen=True)
class Slots:
    """Where a kernel finds x, w and y among its arguments, and the first of its own numbers."""

    x: int
    w: int
    y: int
    numbers: int = 3


def groups_of(problem: Problem, schedule: Schedule) -> tuple[list[int], int]:
    """How many units lie along each axis of x's parts, and along w's."""
    w_groups = -(-known(problem.channels) // schedule.w_unit)
    if schedule.box is None:
        return [-(-known(problem.images) // schedule.x_unit)], w_groups
    extents = (known(problem.images), *map(known, problem.outputs))
    return [-(-n // size) for n, size in zip(extents, schedule.box, strict=True)], w_groups


def units(problem: Problem, schedule: Schedule) -> int:
    """Units of work."""
    x_groups, w_groups = groups_of(problem, schedule)
    return known(problem.groups) * problem.blocks.spans * w_groups * prod(x_groups)


AnySide = PackedSide | DirectSide | WindowRows | WindowLanes


class HotKernel:
    """Builds the kernel; `build` does it all."""

    def __init__(
        self, symbol: str, target: Target, dtype: DType, problem: Problem, schedule: Schedule,
        slots: Slots, rank: int, epilogue: Epilogue | None, is_partial: bool,
        windows: Windows | None = None, together: int = 1,
    ) -> None:  # fmt: skip
        self.emit = emit = Emit(symbol, target)
        self.given = problem
        self.problem = problem = problem.opened(emit, slots.numbers)
        self.schedule, self.slots = schedule, slots
        self.epilogue, self.together = epilogue, together
        self.held, self.width = summed_in(dtype), lanes_of(target, dtype)
        self.stored = self.held if is_partial else dtype
        self.results = Results(
            emit, problem, slots.y, self.held, self.stored, self.width, rank, epilogue
        )
        self.scratch = scratch = Scratch(emit)
        x_side = self._window(dtype) if schedule.box else self._axis_side(True, dtype)
        w_side = self._axis_side(False, dtype)
        self.x_side, self.w_side = x_side, w_side
        self.lanes: AnySide = x_side if schedule.x_in_lanes else w_side
        self.rows: AnySide = w_side if schedule.x_in_lanes else x_side
        self.stride = -(-self.lanes.count // self.width) * self.width
        # A square of lanes may be read from the last rows on.
        self.fetched = self._fetched(dtype)
        self.following: dict[AnySide, Value] = {}
        self.tile = scratch.reserve((self.rows.count + self.width) * self.stride, self.held)
        # The lanes run along y's last axis, or are turned to do so.
        self.turns = schedule.x_in_lanes is (schedule.box is None)
        self.boxes = self._boxes(windows) if windows is not None else None
        self.turned_stride = -(-self.rows.count // self.width) * self.width
        if self.turns and not (self.boxes and self.boxes.crosses):
            self.turned = scratch.reserve(self.stride * self.turned_stride, self.held)
        # Sums of one block, whose lanes lie as y does, need no memory of their own.
        self.stores_at_once = (
            epilogue is None and schedule.box is None and not self.turns
            and few(known(self.given.per_span), 1) and known(problem.y_strides[2]) == 1
            and problem.summed >= _LONG_ENOUGH
        )  # fmt: skip

    def _fetched(self, dtype: DType) -> dict[AnySide, Fetching]:
        """What is asked for before it is packed, of operands that no near cache holds."""
        tiles = self.rows.tile_count * self.lanes.tile_count
        found: dict[AnySide, Fetching] = {}
        sizes = self.given.sampled().sizes_read
        for side, size in zip((self.x_side, self.w_side), sizes, strict=True):
            packs = isinstance(side, WindowSide) or (
                isinstance(side, PackedSide) and not side.resident
            )
            if packs and size * dtype.itemsize >= _FAR and is_worth_it(side.read, dtype):
                found[side] = Fetching(
                    self.emit, self.scratch, side.source, dtype, side.read, tiles
                )
        return found

    def _boxes(self, windows: Windows) -> WindowBoxes:
        side, outputs = self.x_side, [known(extent) for extent in self.problem.outputs]
        assert isinstance(side, WindowSide)
        return WindowBoxes(
            self.emit, self.scratch, windows, side.unit, outputs, side.grid, self.stride,
            self.held, self.width, self.turns,
        )  # fmt: skip

    def _axis_side(self, is_x: bool, dtype: DType) -> PackedSide | DirectSide:
        emit, problem, schedule = self.emit, self.problem, self.schedule
        operand = Operand.of(problem, is_x, self.slots.x if is_x else self.slots.w, dtype)
        in_lanes = is_x is schedule.x_in_lanes
        width = schedule.vectors * self.width if in_lanes else schedule.rows
        unit = schedule.x_unit if is_x else schedule.w_unit
        arguments = (emit, self.scratch, operand, problem, self.width, width, unit)
        if schedule.pack_lanes if in_lanes else schedule.pack_rows:
            return PackedSide(*arguments, resident=in_lanes and schedule.resident)
        side = DirectSide(*arguments)
        side.is_lanes, side.turns = in_lanes, in_lanes and schedule.turn_lanes
        return side

    def _window(self, dtype: DType) -> WindowRows | WindowLanes:
        schedule = self.schedule
        assert schedule.box is not None
        arguments = (
            self.emit, self.scratch, self.problem, self.slots.x, dtype, self.width, schedule.box
        )  # fmt: skip
        if schedule.x_in_lanes:
            return WindowLanes(*arguments, schedule.vectors, schedule.is_flat)
        assert schedule.tile is not None
        if schedule.skips:
            kind = SkippingImages if schedule.tile[0] > 1 else SkippingLines
            side = kind(*arguments, schedule.tile)
            if schedule.resident:
                lanes = schedule.vectors * self.width
                side.keep(-(-schedule.w_unit // lanes) * known(self.problem.per_span))
            return side
        return WindowRows(*arguments, schedule.tile)

    def build(self) -> Kernel:
        """Write the kernel."""
        emit, problem, schedule = self.emit, self.problem, self.schedule
        self.rows.begin()
        self.lanes.begin()
        groups = emit.index(problem.groups)
        x_groups, w_groups = self._groups()
        with emit.loop(emit.begin, emit.end, carried=(emit.constant(-1, dtypes.int64),)) as unit:
            # Neighbouring units share what may stay packed.
            outer = (groups, w_groups) if not schedule.x_in_lanes else (groups, *x_groups)
            inner = x_groups if not schedule.x_in_lanes else [w_groups]
            if self.fetched:
                self._begin_unit(emit.add(unit.index, 1), *outer, *inner)
                start = block_at(emit, problem, emit.constant(0, dtypes.int64))
                self.following = {side: side.at_block(start) for side in self.fetched}
            span, group, w_start, x_starts = self._begin_unit(unit.index, *outer, *inner)
            per_span = emit.index(problem.per_span)
            first = emit.multiply(span, per_span)
            total = product(emit, problem.counts)
            last = emit.minimum(emit.add(first, per_span), total)
            if few(self.given.blocks.spans, 1):
                first, last = emit.constant(0, dtypes.int64), total
            if schedule.resident:
                assert isinstance(self.lanes, PackedSide)
                key = quotient(emit, unit.index, product(emit, inner))
                with (
                    emit.if_(emit.not_equal(key, unit.values[0])),
                    emit.loop(first, last) as number,
                ):
                    kept = emit.subtract(number.index, first)
                    block = block_at(emit, problem, number.index)
                    self.lanes.begin_block(block, kept)
                    self._judge(block, kept)
                unit.next(key)
            self.place = self.results.place(span, (group, *x_starts, w_start))
            self._sum(first, last)
            if not self.stores_at_once:
                self._finish(span, group, w_start, x_starts)
        return Kernel(emit.symbol, emit.finish(), self.scratch.size)

    def _groups(self) -> tuple[list[Index], Index]:
        """As `groups_of`, inside the kernel."""
        emit, problem, schedule = self.emit, self.problem, self.schedule
        w_groups = pieces(emit, problem.channels, schedule.w_unit)
        if schedule.box is None:
            return [pieces(emit, problem.images, schedule.x_unit)], w_groups
        extents = (problem.images, *problem.outputs)
        return [
            pieces(emit, n, size) for n, size in zip(extents, schedule.box, strict=True)
        ], w_groups

    def _begin_unit(
        self, number: Value, *extents: Index
    ) -> tuple[Value, Value, Value, list[Value]]:
        """Turn to a unit; returns its span and group, and where its parts of w and of x start."""
        emit, schedule = self.emit, self.schedule
        span, group, *where = split(emit, number, *extents)
        w_at = where.pop() if schedule.x_in_lanes else where.pop(0)
        w_start = emit.multiply(w_at, schedule.w_unit)
        self.w_side.begin_unit(group, w_start)
        return span, group, w_start, self._begin_x(group, where)

    def _begin_x(self, group: Value, where: list[Value]) -> list[Value]:
        """Turn to the unit's parts of x; returns where they start."""
        emit = self.emit
        if isinstance(self.x_side, WindowSide):
            starts = [
                emit.multiply(at, size) for at, size in zip(where, self.x_side.unit, strict=True)
            ]
            self.x_side.begin_unit(group, starts)
            return starts
        start = emit.multiply(where[0], self.schedule.x_unit)
        self.x_side.begin_unit(group, start)
        return [start]

    def _sum(self, first: Value, last: Value) -> None:
        """Fill the tile memory with the unit's sums."""
        emit, width = self.emit, self.width
        if few(self.given.blocks.total, 0):
            zero = emit.constant(0, self.held, width)
            with emit.loop(0, self.rows.count * self.stride, width) as i:
                emit.store(self.tile, i.index, zero)
            return
        with emit.loop(first, last, nonempty=True) as number:
            block = block_at(emit, self.problem, number.index)
            if self.schedule.resident:
                assert isinstance(self.lanes, PackedSide)
                self.lanes.turn_to(emit.subtract(number.index, first))
            else:
                self.lanes.begin_block(block)
            self.rows.begin_block(block)
            self._look_at_following(number.index, last)
            is_first: Value | bool = True
            if not few(known(self.given.per_span), 1):
                is_first = emit.equal(number.index, first)
            with self.lanes.tiles() as (panel, column):
                kept = emit.subtract(number.index, first)
                self._sum_panel(block, kept, panel, column, is_first)

    def _look_at_following(self, number: Value, last: Value) -> None:
        """Turn what is asked for early to the next block, or to the first one of the next unit."""
        if not self.fetched:
            return
        emit = self.emit
        after = emit.add(number, 1)
        block = block_at(emit, self.problem, after)
        goes_on = emit.less(after, last)
        for side, fetching in self.fetched.items():
            fetching.begin(emit.where(goes_on, side.at_block(block), self.following[side]))

    def _judge(self, block: Block, kept: Value) -> None:
        """Remember of panels that stay, block `kept` of them, whether they see all taps."""
        side = self.rows
        if not isinstance(side, SkippingRows):
            return
        with self.lanes.tiles() as (panel, column):
            side.judge(block, _stream(self.lanes, panel, self.width))
            side.remember(self._judged(kept, column))

    def _judged(self, kept: Value, column: Value) -> Value:
        """The number of a panel among those that stay."""
        emit = self.emit
        panel = quotient(emit, column, self.schedule.vectors * self.width)
        return emit.add(emit.multiply(kept, self.lanes.tile_count), panel)

    def _sum_panel(
        self, block: Block, kept: Value, panel: Value, column: Value, is_first: Value | bool
    ) -> None:
        emit, side = self.emit, self.rows
        if isinstance(side, SkippingRows):
            if self.schedule.resident:
                side.recall(self._judged(kept, column))
            else:
                side.judge(block, _stream(self.lanes, panel, self.width))
        if not (isinstance(side, DirectSide) and side.may_be_few):
            self._sum_tiles(block, panel, column, is_first, side.tiles)
            return
        are_few = side.are_few()
        with emit.if_(emit.logical_not(are_few)):
            self._sum_tiles(block, panel, column, is_first, side.tiles)
        with emit.if_(are_few):
            self._sum_tiles(block, panel, column, is_first, side.single_rows)

    def _sum_tiles(
        self, block: Block, panel: Value, column: Value, is_first: Value | bool,
        tiles: Callable[[], AbstractContextManager[tuple[Value, Value]]],
    ) -> None:  # fmt: skip
        emit = self.emit
        with tiles() as (source, row):
            scalars = _stream(self.rows, source, 1)
            rows: Sequence[int] = range(len(scalars.parts))
            if isinstance(self.rows, WindowRows):
                rows = self.rows.rows
            if self.schedule.turn_lanes:
                assert isinstance(self.lanes, DirectSide)
                turning = self.lanes.turned_stream(column)
                found = turned_sums(emit, self.held, block.count, turning, scalars)
            else:
                vectors = _stream(self.lanes, panel, self.width)
                count, picked = block.count, None
                if isinstance(self.rows, SkippingRows):
                    count, picked = self.rows.products(block), self.rows.picked
                found = sums(emit, self.held, self.width, count, vectors, scalars, True, picked)
            if self.stores_at_once:
                self._store_tile(row, column, found)
            else:
                at = emit.add(column, emit.multiply(row, self.stride))
                new = self.lanes.new if isinstance(self.lanes, DirectSide) else None
                parts = [row * self.stride for row in rows]
                add_into(emit, self.tile, at, parts, found, is_first, new)
            for fetching in self.fetched.values():
                fetching.go_on()

    def _store_tile(self, kept: Value, column: Value, found: list[list[Value]]) -> None:
        """Store the sums of a tile where they belong."""
        emit, side, lanes = self.emit, self.rows, self.lanes
        assert not isinstance(side, WindowSide)
        assert not isinstance(lanes, WindowSide)
        row_stride = emit.index(self.problem.y_strides[1])
        first = side.first_row(kept)
        place = emit.add(emit.multiply(first, row_stride), emit.add(self.place, column))
        lanes_left = emit.subtract(lanes.valid, column)
        is_exact = lanes.is_exact
        new = lanes.new if isinstance(lanes, DirectSide) else None
        nothing = emit.constant(0, self.held, self.width)
        for row, vectors in enumerate(found):
            # A packed tile may hold rows past the last, which belong to nobody.
            present = side.has_row(kept, row)
            for number, value in enumerate(vectors):
                at = number * self.width
                mask = new[number] if new else None
                if new is None and not is_exact:
                    mask = emit.mask_below(emit.subtract(lanes_left, at), self.width)
                value = emit.cast(emit.add(nothing, value), self.stored)
                where = emit.add(place, emit.add(emit.multiply(row_stride, row), at))
                if present is None:
                    emit.store(emit.pointer(self.slots.y), where, value, mask)
                    continue
                with emit.if_(present):
                    emit.store(emit.pointer(self.slots.y), where, value, mask)

    def _finish(self, span: Value, group: Value, w_start: Value, x_starts: list[Value]) -> None:
        """Hand over the unit's elements."""
        emit, problem = self.emit, self.problem
        source, stride = self.tile, self.stride
        if self.turns and not (self.boxes and self.boxes.crosses):
            shape = (self.rows.count, stride)
            turn_into(
                emit, source, shape, self.turned, self.turned_stride, self.held, self.width
            )
            source, stride = self.turned, self.turned_stride
        w_side = self.w_side
        if not isinstance(self.x_side, WindowSide):
            with emit.loop(0, self.x_side.valid, nonempty=True) as row:
                at = emit.multiply(self.x_side.stored_row(row.index), stride)
                pair = (group, emit.add(x_starts[0], row.index))
                self.results.hand_over(span, source, at, (*pair, w_start), w_side.valid)
            return
        valid = []
        extents = (problem.images, *problem.outputs)
        for size, extent, start in zip(self.x_side.unit, extents, x_starts, strict=True):
            valid.append(parts_left(emit, extent, start, size))
        if self.boxes is not None:
            self.boxes.hand_over(source, stride, group, valid[0], w_side, w_start, x_starts)
            if not self.boxes.keeps:
                return
        outer = self._axes_apart()
        count = valid[outer]
        for inner in valid[outer + 1 :]:
            count = emit.multiply(count, inner)
        with ExitStack() as nest:
            channel = nest.enter_context(emit.loop(0, w_side.valid, nonempty=True)).index
            at = emit.multiply(w_side.stored_row(channel), stride)
            where = list(x_starts)
            for axis in range(outer):
                i = nest.enter_context(emit.loop(0, valid[axis], nonempty=True)).index
                at = emit.add(at, emit.multiply(i, self.x_side.grid[axis]))
                where[axis] = emit.add(x_starts[axis], i)
            image, *positions = where
            index = (group, image, emit.add(w_start, channel), *positions)
            self.results.hand_over(span, source, at, index, count)

    def _axes_apart(self) -> int:
        """How many of the axes (images and positions) are walked one by one to store a unit's
        sums: those after them lie in y, and in the memory of sums, as one run, which an epilogue
        takes as one too.
        """
        assert isinstance(self.x_side, WindowSide)
        # Of images it only counts whether there may be several.
        images = known(self.given.images)
        extents = (2 if is_open(images) else images, *map(known, self.problem.outputs))
        strides = (known(self.problem.y_strides[1]), *map(known, self.problem.y_strides[3:]))
        unit, grid, axis = self.x_side.unit, self.x_side.grid, 3
        run = (grid[3] * extents[3], strides[3] * extents[3])
        together = 4 if self.epilogue is None else self.together
        while axis > 0 and unit[axis] == extents[axis]:
            extent = extents[axis - 1]
            if extent > 1:
                if (grid[axis - 1], strides[axis - 1]) != run or 4 - axis >= together:
                    break
                run = (run[0] * extent, run[1] * extent)
            axis -= 1
        return axis


def _stream(side: AnySide, place: Value, step: int) -> Stream:
    """What the innermost loop reads of one tile; parts on one axis are taken `step` at a time."""
    if isinstance(side, WindowSide):
        return side.stream(place)
    return side.stream(place, step)


def fused_spans_kernel(
    symbol: str, target: Target, dtype: DType, problem: Problem, rank: int, write: Epilogue,
    numbers: int,
) -> Kernel:  # fmt: skip
    """The kernel that adds the sums of spans (slot 0) and hands the result to an epilogue. A unit
    is one run of y's last axis. The number of spans, the size of y and the problem's formulas are
    in the slots from `numbers` on.
    """
    emit = Emit(symbol, target)
    held, width = summed_in(dtype), lanes_of(target, dtype)
    partial = emit.pointer(0)
    spans, size = emit.integer(numbers), emit.integer(numbers + 1)
    problem = problem.opened(emit, numbers + 2)
    shape = (problem.groups, problem.images, problem.channels, *(problem.outputs if rank else ()))
    run = emit.index(shape[-1])
    with emit.loop(emit.begin, emit.end) as unit:
        where = split(emit, unit.index, *shape[1:-1])
        first = emit.multiply(unit.index, run)
        with emit.loop(0, run, width, nonempty=True) as lane:
            exact = isinstance(run.number, int) and run.number % width == 0
            mask = None if exact else emit.mask_below(emit.subtract(run, lane.index), width)
            at = emit.add(first, lane.index)
            total = emit.load(partial, at, held, width, mask)
            with emit.loop(1, spans, carried=(total,)) as span:
                there = emit.add(at, emit.multiply(span.index, size))
                value = emit.load(partial, there, held, width, mask)
                span.next(emit.add(span.values[0], value))
            whole = (*where, lane.index)
            index = whole if rank == 0 else (*whole[:3], *whole[6 - rank :])
            write(emit, emit.cast(span.results[0], dtype), index, len(index) - 1, mask)
    return Kernel(emit.symbol, emit.finish())
