"""Operands of a specialised contraction whose parts lie on one axis: read in place, or packed.

Comes in: a `Problem`, one of its operands, and how its parts are cut into tiles; how many parts and
steps there are may be an argument of the kernel.
Goes out: `Stream`s for the innermost loop. Guaranteed: a part past the last is read as some other
part, never as memory outside the operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod

from avalon import dtype as dtypes
from avalon.codegen.contraction_pack import Block, Scratch, parts_left, pieces, quotient
from avalon.codegen.contraction_problem import Problem, is_number, known
from avalon.codegen.contraction_tile import (
    QUARTER,
    Stream,
    TurnedStream,
    summed_in,
    turned,
)
from avalon.codegen.emit import Emit, Index, Pointer, Value
from avalon.dtype import DType


@dataclass(frozen=True)
class Operand:
    """One operand of a problem with one axis of parts: x of a matrix product, or w.

    `strides` are those of the parts and of the sum's four axes.
    """

    slot: int
    dtype: DType
    offset: Index
    group_stride: Index
    strides: tuple[int, int, int, int, int]
    parts: Index

    @staticmethod
    def of(problem: Problem, is_x: bool, slot: int, dtype: DType) -> Operand:
        """Take x or w out of a problem."""
        strides = problem.x_strides if is_x else problem.w_strides
        part, a, b, c, d = map(known, strides[1:])
        offset = problem.x_offset if is_x else problem.w_offset
        parts = problem.images if is_x else problem.channels
        return Operand(slot, dtype, offset, strides[0], (part, a, b, c, d), parts)

    def is_cut_evenly(self, size: int) -> bool:
        """Whether the parts are known to be a multiple of `size`."""
        return is_number(self.parts) and known(self.parts) % size == 0

    def has_at_least(self, count: int) -> bool:
        """Whether there are known to be so many parts."""
        return is_number(self.parts) and known(self.parts) >= count


def runs(lengths: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Axes of a block as (length, stride), outermost first, those merged that one stride walks."""
    merged: list[tuple[int, int]] = []
    for length, stride in zip(reversed(lengths), reversed(strides), strict=True):
        if length == 1:
            continue
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0] * length, merged[-1][1])
        else:
            merged.append((length, stride))
    return merged[::-1] or [(1, 1)]


class Steps:
    """Where the steps of a block are: at multiples of one stride, or in a table made once a
    call."""

    def __init__(
        self, emit: Emit, scratch: Scratch, lengths: Sequence[int], strides: Sequence[int],
        across: Callable[[Value], Value] | None = None,
    ) -> None:  # fmt: skip
        self.emit, self.across = emit, across
        self.runs = runs(lengths, strides)
        self.axes = self.runs if across is None else list(zip(lengths, strides, strict=True))
        is_even = len(self.axes) == 1
        self.step = self.runs[0][1] if is_even else 0
        self.table = None if is_even else scratch.reserve(prod(lengths), dtypes.int64)

    def begin(self) -> None:
        """Fill the table."""
        if self.table is None:
            return
        emit = self.emit
        with ExitStack() as nest:
            place = number = emit.constant(0, dtypes.int64)
            for axis, (length, stride) in enumerate(self.axes):
                loop = nest.enter_context(emit.loop(0, length))
                moved = emit.multiply(loop.index, stride)
                if self.across is not None and axis == len(self.axes) - 1:
                    moved = self.across(moved)
                place = emit.add(place, moved)
                number = emit.add(emit.multiply(number, length), loop.index)
            emit.store(self.table, number, place)

    def at(self, k: Value) -> Value:
        """The place of step `k`."""
        if self.table is not None:
            return self.emit.load(self.table, k, dtypes.int64)
        return self.emit.multiply(k, self.step)


class AxisSide:
    """Parts along one axis, `width` in a tile; `unit` of them in a unit of work."""

    def __init__(
        self, emit: Emit, scratch: Scratch, operand: Operand, problem: Problem, lanes: int,
        width: int, unit: int,
    ) -> None:  # fmt: skip
        self.emit, self.operand, self.problem = emit, operand, problem
        self.lanes, self.width, self.unit = lanes, width, unit
        self.source = emit.pointer(operand.slot)
        self.lengths = problem.room
        self.steps = Steps(emit, scratch, self.lengths, operand.strides[1:])
        self.place = self.first = emit.constant(0, dtypes.int64)
        self.valid = parts_left(emit, operand.parts, self.first, unit)
        self.tile_count = -(-unit // width)
        self.count = self.tile_count * width

    @property
    def read(self) -> list[tuple[int, int]]:
        """The axes of the operand that a block of a unit walks: extents and strides. What nobody
        knows is taken for large.
        """
        part, *summed = self.operand.strides
        parts = self.operand.parts
        unit = min(self.unit, known(parts)) if is_number(parts) else self.unit
        return [(unit, part), *zip(self.lengths, summed, strict=True)]

    @property
    def is_exact(self) -> bool:
        """Whether tiles end where units and the operand end."""
        return self.operand.is_cut_evenly(self.width) and self.unit % self.width == 0

    def begin(self) -> None:
        """Prepare what serves the whole call."""
        self.steps.begin()

    def begin_unit(self, group: Value, first: Value) -> None:
        """Turn to the parts from `first` on."""
        emit, operand = self.emit, self.operand
        self.first = first
        self.valid = parts_left(emit, operand.parts, first, self.unit)
        place = emit.multiply(group, emit.index(operand.group_stride))
        place = emit.add(place, emit.index(operand.offset))
        self.place = emit.add(place, emit.multiply(first, operand.strides[0]))

    def at_block(self, block: Block) -> Value:
        """Where the block's first element of the unit's first part is."""
        emit, place = self.emit, self.place
        for start, stride in zip(block.start, self.operand.strides[1:], strict=True):
            place = emit.add(place, emit.multiply(start, stride))
        return place


class DirectSide(AxisSide):
    """Reads the operand in place. As rows, the last tile of a unit starts early enough to end with
    the parts; its sums are kept where a tile that starts in time would keep them. As lanes, which
    must be neighbours in memory, those past the last part are switched off.
    """

    is_lanes = False
    turns = False
    masks: list[Value | None] | None = None
    new: list[Value] | None = None  # lanes of an early tile that no tile before it has

    @property
    def may_be_few(self) -> bool:
        """Whether a unit may have fewer rows than a tile, because nobody knows how many there are:
        those are taken one by one.
        """
        return not self.is_lanes and not is_number(self.operand.parts)

    @property
    def starts_early(self) -> bool:
        """Whether the last tile of lanes starts early enough to end with the parts; it has some
        lanes of the tile before it once more, maybe of another unit.
        """
        turns = self.is_lanes and self.turns and not self.is_exact
        return turns and self.operand.has_at_least(self.width)

    def begin_block(self, block: Block) -> None:
        """Turn to a block of the sum."""
        self.block_place = self.at_block(block)

    @contextmanager
    def tiles(self) -> Iterator[tuple[Value, Value]]:
        """All tiles: the place of the first part, and where its sums are kept."""
        emit = self.emit
        with emit.loop(0, pieces(emit, self.valid, self.width), nonempty=True) as tile:
            kept = start = emit.multiply(tile.index, self.width)
            if not self.is_exact and not self.is_lanes:
                start = self.first_row(start)
            self.masks = None
            if self.starts_early:
                kept = emit.minimum(start, emit.subtract(self.valid, self.width))
                late = emit.subtract(start, kept)
                start = kept
                self.new = [
                    emit.logical_not(emit.mask_below(emit.subtract(late, vector), self.lanes))
                    for vector in range(0, self.width, self.lanes)
                ]
            if not self.is_exact and self.is_lanes and not self.turns:
                rest = emit.subtract(self.valid, start)
                self.masks = [
                    emit.mask_below(emit.subtract(rest, vector), self.lanes)
                    for vector in range(0, self.width, self.lanes)
                ]
            moved = emit.multiply(start, self.operand.strides[0])
            yield emit.add(self.block_place, moved), kept

    def stored_row(self, row: Value) -> Value:
        """The row of the tile memory that holds part `row` of the unit."""
        emit = self.emit
        if self.is_exact or self.is_lanes:
            return row
        tiles = pieces(emit, self.valid, self.width)
        late = emit.subtract(emit.multiply(tiles, self.width), self.valid)
        if self.may_be_few:
            late = emit.where(self.are_few(), emit.constant(0, dtypes.int64), late)
        is_last = emit.less_equal(emit.multiply(emit.subtract(tiles, 1), self.width), row)
        return emit.add(row, emit.where(is_last, late, emit.constant(0, dtypes.int64)))

    def first_row(self, kept: Value) -> Value:
        """The part of the unit that comes first in the tile whose sums are kept at `kept`."""
        if self.is_exact:
            return kept
        return self.emit.minimum(kept, self.emit.subtract(self.valid, self.width))

    def has_row(self, kept: Value, row: int) -> Value | None:
        """Whether row `row` of a tile is a part of the unit; None: of course."""
        return None

    def are_few(self) -> Value:
        """Whether the unit has fewer parts than a tile."""
        return self.emit.less(self.valid, self.emit.constant(self.width, dtypes.int64))

    @contextmanager
    def single_rows(self) -> Iterator[tuple[Value, Value]]:
        """The same as `tiles`, of one row each."""
        emit = self.emit
        width, self.width = self.width, 1
        with emit.loop(0, self.valid, nonempty=True) as row:
            moved = emit.multiply(row.index, self.operand.strides[0])
            yield emit.add(self.block_place, moved), row.index
        self.width = width

    def turned_stream(self, kept: Value) -> TurnedStream:
        """The same for lanes whose steps are neighbours. Lanes past the last part repeat others."""
        emit, stride = self.emit, self.operand.strides[0]
        last_part = emit.subtract(self.valid, 1)
        vectors = []
        for vector in range(0, self.width, self.lanes):
            first = emit.add(kept, vector)
            if self.is_exact or self.starts_early:
                base = emit.add(self.block_place, emit.multiply(first, stride))
                vectors.append([(base, lane * stride) for lane in range(self.lanes)])
                continue
            parts = [emit.minimum(emit.add(first, lane), last_part) for lane in range(self.lanes)]
            vectors.append(
                [(emit.add(self.block_place, emit.multiply(part, stride)), 0) for part in parts]
            )
        return TurnedStream(self.source, vectors)

    def stream(self, place: Value, step: int) -> Stream:
        """What the innermost loop reads of one tile."""
        stride = self.operand.strides[0]
        parts = [part * stride for part in range(0, self.width, step)]
        return Stream(self.source, place, parts, self.steps.step, self.steps.table, self.masks)


class PackedSide(AxisSide):
    """Packs tiles of parts: those of one step side by side, rounded up to whole vectors.

    `resident` keeps all blocks of a unit's parts, so that units with the same parts pack once. The
    panels lie at `packed`, if that is given, else in private memory.
    """

    def __init__(
        self, emit: Emit, scratch: Scratch, operand: Operand, problem: Problem, lanes: int,
        width: int, unit: int, resident: bool, packed: Pointer | None = None,
    ) -> None:  # fmt: skip
        super().__init__(emit, scratch, operand, problem, lanes, width, unit)
        self.stored = -(-width // lanes) * lanes
        self.longest = prod(self.lengths)
        # Blocks are cut along one axis, and so is the outermost run; the last one may be shorter.
        rest = _rest(problem, self.longest)
        runs = self.steps.runs
        self.shortest_run = rest if rest and len(runs) == 1 else runs[-1][0]
        self.resident = resident
        blocks = known(problem.per_span) if resident else 1
        tiles = -(-unit // width)
        self.panel = self.longest * self.stored
        self.block_size = tiles * self.panel
        size = blocks * self.block_size
        self.panels = packed or scratch.reserve(size, summed_in(operand.dtype))
        self.target = emit.constant(0, dtypes.int64)

    def begin_block(self, block: Block, kept: Value | None = None) -> None:
        """Pack a block, as number `kept` of those that stay, and turn to it."""
        emit = self.emit
        if kept is not None:
            self.target = emit.multiply(kept, self.block_size)
        place = self.at_block(block)
        with emit.loop(0, pieces(emit, self.valid, self.width), nonempty=True) as tile:
            target = emit.add(self.target, emit.multiply(tile.index, self.panel))
            start = emit.multiply(tile.index, self.width)
            if self.operand.strides[0] == 1:
                self._copy(emit.add(place, start), start, target, block.count)
            elif abs(self.steps.runs[-1][1]) == 1 and self.shortest_run >= QUARTER:
                self._turn(place, start, target, block.count)
            else:
                self._gather(place, start, target, block.count)

    def turn_to(self, kept: Value) -> None:
        """Read block `kept` of those that stay."""
        self.target = self.emit.multiply(kept, self.block_size)

    def _vectors(self) -> range:
        return range(0, self.stored, self.lanes)

    def _mask(self, start: Value) -> Value | None:
        """The lanes of a vector that hold parts; None if all do."""
        number = self.valid.number
        if isinstance(number, int) and number % self.stored == 0 and self.width == self.stored:
            return None
        return self.emit.mask_below(self.emit.subtract(self.valid, start), self.lanes)

    def _copy(self, place: Value, start: Value, target: Value, count: Value) -> None:
        """Parts that are neighbours: a step is a few loads and stores."""
        emit, held = self.emit, summed_in(self.operand.dtype)
        masks = [self._mask(emit.add(start, vector)) for vector in self._vectors()]
        with emit.loop(0, count, nonempty=True) as k:
            source = emit.add(place, self.steps.at(k.index))
            at = emit.add(target, emit.multiply(k.index, self.stored))
            for vector, mask in zip(self._vectors(), masks, strict=True):
                value = emit.load(
                    self.source, emit.add(source, vector), self.operand.dtype, self.lanes, mask
                )
                emit.store(self.panels, emit.add(at, vector), emit.cast(value, held))

    def _turn(self, place: Value, start: Value, target: Value, count: Value) -> None:
        """Steps that are neighbours: stretches of parts and steps are transposed in registers."""
        emit, lanes = self.emit, self.lanes
        dtype, held = self.operand.dtype, summed_in(self.operand.dtype)
        inner = prod(length for length, _ in self.steps.runs[1:])
        extents: list[Index] = [quotient(emit, count, inner), *(n for n, _ in self.steps.runs[1:])]
        last_part = emit.subtract(self.valid, 1)
        is_whole = self._mask(start) is None
        with ExitStack() as nest:
            vector = nest.enter_context(emit.loop(0, self.stored, lanes)).index
            first, stride = emit.add(start, vector), self.operand.strides[0]
            late, mask = emit.constant(0, dtypes.int64), None
            if not is_whole and self.operand.has_at_least(lanes):
                # The last parts are read early enough to end with the unit; those that stand in
                # front of where they belong, maybe in another unit, are not stored.
                wanted, last = first, emit.subtract(self.valid, lanes)
                first = emit.minimum(wanted, last)
                late = emit.subtract(wanted, first)
                mask = emit.logical_not(emit.mask_below(late, lanes))
            if is_whole or mask is not None:
                # One base and known distances: they become part of the loads' addresses.
                base = emit.add(place, emit.multiply(first, stride))
                bases = [(base, lane * stride) for lane in range(lanes)]
            else:
                parts = [emit.minimum(emit.add(first, lane), last_part) for lane in range(lanes)]
                bases = [(emit.add(place, emit.multiply(part, stride)), 0) for part in parts]
            moved = number = emit.constant(0, dtypes.int64)
            for extent, (_, distance) in zip(extents[:-1], self.steps.runs[:-1], strict=True):
                loop = nest.enter_context(emit.loop(0, extent))
                moved = emit.add(moved, emit.multiply(loop.index, distance))
                number = emit.add(emit.multiply(number, emit.index(extent)), loop.index)
            extent = emit.index(extents[-1])
            number = emit.multiply(number, extent)
            k = nest.enter_context(emit.loop(0, extent, QUARTER, nonempty=True)).index
            # The last stretch starts early enough to end with the run; what it repeats is equal.
            if self.shortest_run % QUARTER or self.steps.runs[-1][0] % QUARTER:
                k = emit.minimum(k, emit.subtract(extent, QUARTER))
            is_reversed = self.steps.runs[-1][1] < 0
            if is_reversed:
                moved = emit.subtract(moved, emit.add(k, QUARTER - 1))
            else:
                moved = emit.add(moved, k)
            strip = [
                emit.load(self.source, emit.add(emit.add(base, moved), apart), dtype, QUARTER)
                for base, apart in bases
            ]
            at = emit.multiply(emit.add(number, k), self.stored)
            at = emit.add(emit.subtract(emit.add(target, vector), late), at)
            columns = turned(emit, [emit.cast(value, held) for value in strip])
            for step, column in enumerate(columns[::-1] if is_reversed else columns):
                emit.store(self.panels, emit.add(at, step * self.stored), column, mask)

    def _gather(self, place: Value, start: Value, target: Value, count: Value) -> None:
        """Nothing is a neighbour."""
        emit, lanes, held = self.emit, self.lanes, summed_in(self.operand.dtype)
        distances = [lane * self.operand.strides[0] for lane in range(lanes)]
        apart = emit.constants(distances, dtypes.int64)
        for vector in self._vectors():
            first = emit.add(start, vector)
            mask = self._mask(first)
            moved = emit.add(place, emit.multiply(first, self.operand.strides[0]))
            with emit.loop(0, count, nonempty=True) as k:
                base = emit.offset(
                    self.source, emit.add(moved, self.steps.at(k.index)), self.operand.dtype
                )
                value = emit.gather(base, apart, self.operand.dtype, mask)
                at = emit.add(emit.add(target, vector), emit.multiply(k.index, self.stored))
                emit.store(self.panels, at, emit.cast(value, held))

    @contextmanager
    def tiles(self) -> Iterator[tuple[Value, Value]]:
        """All tiles: the place of the panel, and where its sums are kept."""
        emit = self.emit
        with emit.loop(0, pieces(emit, self.valid, self.width), nonempty=True) as tile:
            place = emit.add(self.target, emit.multiply(tile.index, self.panel))
            yield place, emit.multiply(tile.index, self.width)

    def stored_row(self, row: Value) -> Value:
        """The row of the tile memory that holds part `row` of the unit."""
        return row

    def first_row(self, kept: Value) -> Value:
        """The part of the unit that comes first in the tile whose sums are kept at `kept`."""
        return kept

    def has_row(self, kept: Value, row: int) -> Value | None:
        """Whether row `row` of a tile is a part of the unit; None: of course."""
        if self.is_exact:
            return None
        return self.emit.less(self.emit.add(kept, row), self.valid)

    def stream(self, place: Value, step: int) -> Stream:
        """What the innermost loop reads of one tile, `step` parts at once."""
        return Stream(self.panels, place, range(0, self.width, step), self.stored)


def _rest(problem: Problem, longest: int) -> int:
    """How many products are left for the last block of a sum, or more. Of a depth that nobody knows
    at least one channel is left.
    """
    if is_number(problem.depth):
        return problem.summed % longest if problem.summed else 0
    taps = prod(map(known, problem.taps))
    return taps % longest if is_number(problem.lengths[0]) else taps
